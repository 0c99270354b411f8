"""Names of the metrics of evaluations during training: the values of `checkpoint.best_metric`, and
which of them are better when lower."""

from safety_jax.base.settings import OneOf

_DPO = (
    "loss",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "rewards/accuracies_low", "rewards/accuracies_high",
    "logps/chosen", "logps/rejected", "logps/chosen_change", "mean_token_accuracy", "kl",
    "lengths/chosen", "lengths/rejected",
)  # fmt: skip
_FREE_OF_REFERENCE = tuple(name for name in _DPO if name not in ("logps/chosen_change", "kl"))
# If held-out pairs come from several sources, or have categories of harm.
_GROUPS = tuple(
    f"rewards/{metric}/{group}="
    for metric in ("margins", "accuracies")
    for group in ("source", "category")
)
_ANY_JUDGE = ("loss", "min_reward", "mean_reward", "max_reward")
_CLASSIFIER = (*_ANY_JUDGE, "accuracy", "accuracy_low", "accuracy_high", "ece", "auc")
_JUDGES = {
    "pairs": (*_CLASSIFIER, "margin"),
    "cost": (*_CLASSIFIER, "margin", "sign_accuracy"),
    "regression": (*_ANY_JUDGE, "mse", "pearson", "spearman"),
    "binary": _CLASSIFIER,
}


def _evaluated(names: tuple[str, ...], beginnings: tuple[str, ...] = ()) -> OneOf:
    return OneOf(*(tuple(f"eval/{name}" for name in group) for group in (names, beginnings)))


SFT_METRICS = _evaluated(("loss", "mean_token_accuracy", "perplexity", "nll_loss"))
DPO_METRICS = _evaluated(_DPO, _GROUPS)
ORPO_METRICS = _evaluated(
    (*_FREE_OF_REFERENCE, "nll_loss", "log_odds_chosen", "log_odds_ratio"), _GROUPS
)
KTO_METRICS = _evaluated(
    ("loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
     "logps/rejected")
)  # fmt: skip
METRICS_OF_JUDGES = {kind: _evaluated(names) for kind, names in _JUDGES.items()}
REWARD_METRICS = OneOf(
    tuple(dict.fromkeys(name for metrics in METRICS_OF_JUDGES.values() for name in metrics.names))
)

_LOWER = ("loss", "nll_loss", "perplexity", "mse", "ece")
_HIGHER = (
    "mean_token_accuracy", "accuracies", "accuracies_low", "accuracies_high", "margins", "margin",
    "accuracy", "accuracy_low", "accuracy_high", "sign_accuracy", "auc", "pearson", "spearman",
)  # fmt: skip


def best_of(metric: str) -> str | None:
    """Whether the "lowest" or the "highest" value of a metric is the best; None if either may be,
    as for rewards."""
    name = metric.removeprefix("eval/").removeprefix("rewards/").split("/")[0]
    return "lowest" if name in _LOWER else "highest" if name in _HIGHER else None
