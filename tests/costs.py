"""What the dear test files cost: they begin first, and `make check` leaves them out.

Seconds of processor time with nothing compiled before; rough ones do. A file belongs here when it
starts processes or when a test compiles for more than a second. The one test of another file is
marked `slow` where it stands.
"""

SECONDS = {
    # Left out by `make test`.
    "test_tpu": 380,
    "test_recipe_real": 110,
    "test_real": 60,
    "test_hosts": 140,
    "test_raft": 80,
    "test_decode": 80,
    "test_resume": 70,
    "test_evaluate": 60,
    "test_reward": 50,
    "test_end_to_end": 45,
    "test_judge_training": 40,
    "test_preference_training": 35,
    "test_recipe": 30,
    "test_face": 30,
    "test_heads": 30,
    "test_dpo": 25,
    "test_kto": 25,
    "test_parity": 40,
    "test_llama": 35,
    "test_attention": 20,
    "test_collectives": 20,
    "test_score": 20,
    "test_gcg": 30,
    "test_guard": 20,
    "test_guards": 15,
    "test_lora": 15,
    "test_gpu_benchmark": 12,
    "test_loglikelihood": 12,
    "test_heads_folder": 12,
    "test_lm_eval_tasks": 10,
    "test_policy": 10,
    "test_sequence": 10,
    "test_supervisor": 10,
    "test_checkpoint": 10,
    "test_model": 10,
    "test_steps": 8,
    "test_new_heads": 8,
    "test_deberta": 6,
    "test_loop": 6,
    "test_plan": 6,
    "test_reference": 5,
    "test_chat_process": 5,
    "test_command_line": 5,
    "test_launch": 3,
}
