"""Can a model's hidden states tell unsafe requests from safe ones that only look unsafe?

    python -m tests.benchmarks.probe build/models/SmolLM2-135M-Instruct.Q4_1.gguf [--layers 6,12,18]

A linear probe (logistic regression) reads a layer's states of a request, before any answer: of its
last token, and the mean over all tokens that not every request shares. It learns from the training
requests of `make real` and is tested on HarmBench and XSTest. If it separates them, the model knows
the difference, and what training makes of it is a matter of training. Prints, for each layer,

    cross-validated   AUC on the training requests, ten folds
    HarmBench, ...    the share of unsafe requests above the score that a given share of XSTest's
                      safe ones exceeds, and the AUC against these
"""

import argparse
import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Array, Bool, Float, Int
from scipy import optimize, special

import safety_jax as sj
from safety_jax.base.batch import Tokens
from safety_jax.data import prompt_ids, records, sources
from safety_jax.face import given
from safety_jax.maths import calibration
from safety_jax.models.model import Model

FOLDER = Path(__file__).parents[2] / "launch/real/data"
UNSAFE = ("refusals.jsonl",)
SAFE = ("contrast.jsonl", "contrast_prompts.jsonl", "ordinary.jsonl", "ordinary_prompts.jsonl")
HARMBENCH = "harmbench_standard.csv?columns=prompt:Behavior"
XSTEST = "xstest_prompts.csv"
ROWS = 32  # requests of a batch
MULTIPLE = 16  # lengths of batches, so that few are compiled
PENALTY = 100.0  # of half the squared weights, beside a mean loss over n rows times n
FOLDS = 10

Features = Float[np.ndarray, "n features"]
Labels = Bool[np.ndarray, " n"]


# ---------------------------------------------------------------------------- states


def cut(model: Model, layers: int) -> Model:
    """The model up to a layer. Its states then pass the final norm, which changes their scale."""
    weights = dict(model.weights)
    weights["layers"] = jax.tree.map(lambda x: x[:layers], weights["layers"])
    config = dataclasses.replace(model.config, layers=layers)
    return dataclasses.replace(model, config=config, weights=weights).bare


@functools.partial(jax.jit, static_argnames="shared")
def read(
    model: Model, ids: Int[Array, "B T"], lengths: Int[Array, " B"], *, shared: int
) -> Float[Array, "B features"]:
    """The state of the last token, and the mean state of those behind the first `shared` tokens."""
    places = jnp.arange(ids.shape[1])
    hidden = model.forward(Tokens.one_a_row(ids, places < lengths[:, None])).astype(jnp.float32)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    own = (places >= shared) & (places < lengths[:, None])
    mean = (hidden * own[..., None]).sum(axis=1) / own.sum(axis=1, keepdims=True)
    return jnp.concatenate([last, mean], axis=1)


def features(model: Model, prompts: list[list[int]], shared: int, title: str) -> Features:
    found: list[np.ndarray | None] = [None] * len(prompts)
    order = np.argsort([len(ids) for ids in prompts], kind="stable")
    for start in tqdm.trange(0, len(prompts), ROWS, desc=title, leave=False):
        chosen = order[start : start + ROWS]
        longest = max(len(prompts[i]) for i in chosen)
        ids = np.zeros((ROWS, -(-longest // MULTIPLE) * MULTIPLE), np.int32)
        lengths = np.full(ROWS, shared + 1, np.int32)  # of rows that are not used
        for row, i in enumerate(chosen):
            ids[row, : len(prompts[i])], lengths[row] = prompts[i], len(prompts[i])
        states = np.asarray(read(model, ids, lengths, shared=shared))
        for row, i in enumerate(chosen):
            found[i] = states[row]
    return np.stack([one for one in found if one is not None])


# ---------------------------------------------------------------------------- the probe


@dataclasses.dataclass(frozen=True)
class Probe:
    """Scores w·(x - mean) / deviation + b; a request with a high score looks unsafe."""

    mean: Float[np.ndarray, " features"]
    deviation: Float[np.ndarray, " features"]
    weights: Float[np.ndarray, " features"]
    bias: float

    def scores(self, x: Features) -> Float[np.ndarray, " n"]:
        return (x - self.mean) / self.deviation @ self.weights + self.bias


def fit(x: Features, unsafe: Labels) -> Probe:
    """Minimises Σ_i c_i log(1 + exp(-y_i s_i)) + PENALTY / 2 · |w|², where c gives both classes the
    same weight, n / 2."""
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    z, y = (x - mean) / deviation, np.where(unsafe, 1.0, -1.0)
    c = np.where(unsafe, 0.5 / unsafe.mean(), 0.5 / (1 - unsafe.mean()))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        margin = y * (z @ w + b)
        slope = -c * y * special.expit(-margin)
        value = (c * np.logaddexp(0, -margin)).sum() + PENALTY / 2 * w @ w
        return value, np.append(z.T @ slope + PENALTY * w, slope.sum())

    found = optimize.minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return Probe(mean, deviation, found[:-1], float(found[-1]))


def cross_validated(x: Features, unsafe: Labels) -> float:
    """AUC of scores by probes that did not learn from the request."""
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS
    scores = np.zeros(len(x))
    for k in range(FOLDS):
        scores[fold == k] = fit(x[fold != k], unsafe[fold != k]).scores(x[fold == k])
    found = calibration.auc(scores, unsafe)
    assert found is not None
    return found


def caught(unsafe: np.ndarray, safe: np.ndarray, share: float) -> float:
    """The share of unsafe requests above the score that `share` of the safe ones exceed."""
    allowed = int(share * len(safe))
    return float((unsafe > np.sort(safe)[::-1][allowed]).mean())


# ---------------------------------------------------------------------------- all together


def asked(model: Model, specs: tuple[str, ...]) -> list[list[int]]:
    """The prompts of sources, as ids in the model's template."""
    encoding = given.encoding(model, "")
    rows = [
        row
        for spec in specs
        for row in records.read_prompts(sources.open_source(f"{FOLDER}/{spec}"))
    ]
    return prompt_ids.encode_prompts(rows, encoding.template, encoding.tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder, hub id or GGUF file")
    parser.add_argument("--layers", default="6,12,18", help="how many layers are run")
    parser.add_argument(
        "--allowed",
        type=float,
        nargs="+",
        default=[0.074, 0.22],
        help="shares of XSTest's safe requests that may be called unsafe",
    )
    chosen = parser.parse_args()

    model = sj.load(chosen.model)
    depths = list(map(int, chosen.layers.split(",")))
    if not 0 < min(depths) <= max(depths) <= model.config.layers:
        parser.error(f"--layers {chosen.layers}: expected numbers from 1 to {model.config.layers}")
    if not 0 <= min(chosen.allowed) <= max(chosen.allowed) < 1:
        parser.error(f"--allowed {chosen.allowed}: expected shares from 0 to below 1")
    labels = sources.open_source(f"{FOLDER}/{XSTEST}").rows
    harmless = np.array([not row["type"].startswith("contrast") for row in labels])
    prompts = {
        "unsafe": asked(model, UNSAFE),
        "safe": asked(model, SAFE),
        "HarmBench": asked(model, (HARMBENCH,)),
        "XSTest": asked(model, (XSTEST,)),
    }
    everything = [ids for several in prompts.values() for ids in several]
    shared = len(os.path.commonprefix(everything))
    columns = f"  {'AUC':>5}" + "".join(f"{f'at {share:.1%}':>9}" for share in chosen.allowed)
    over = len(columns) - 2
    print(f"{'':>6}  {'cross-':>9}  {'HarmBench':^{over}}  {'XSTest, unsafe':^{over}}")
    print(f"{'layers':>6}  {'validated':>9}{2 * columns}")
    for layers in depths:
        part = cut(model, layers)
        x = {
            name: features(part, several, shared, f"{layers} layers, {name}")
            for name, several in prompts.items()
        }
        both = np.concatenate([x["unsafe"], x["safe"]])
        unsafe = np.arange(len(both)) < len(x["unsafe"])
        probe = fit(both, unsafe)
        tested = probe.scores(x["XSTest"])
        line = f"{layers:>6}  {cross_validated(both, unsafe):>9.3f}"
        for scores in (probe.scores(x["HarmBench"]), tested[~harmless]):
            safe = tested[harmless]
            first = np.arange(len(scores) + len(safe)) < len(scores)
            auc = calibration.auc(np.concatenate([scores, safe]), first)
            line += f"  {auc:>5.3f}"
            line += "".join(f"{caught(scores, safe, share):>9.1%}" for share in chosen.allowed)
        print(line, flush=True)


if __name__ == "__main__":
    main()
