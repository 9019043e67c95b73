"""The usual way: a script of Ray Tune, OptunaSearch, ASHA and the MLflow callback, as documented.

    python benchmarks/plain_tune.py

The same search as the quickstart (digits, 24 trials of up to 10 epochs, two at a time) with the
same model, a jitted optax step in a Python loop, and the learning rate as an optax schedule.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
EPOCHS, BATCH, TRAIN, VALIDATION = 10, 64, 1150, 287


def train(config: dict[str, Any]) -> None:
    """One trial: everything is built anew, as a function trainable does."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.example_libraries import stax
    from ray import tune
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    init, apply = stax.serial(
        stax.Conv(32, (3, 3), padding="SAME"),
        stax.Relu,
        stax.Conv(16, (3, 3), padding="SAME"),
        stax.Relu,
        stax.Flatten,
        stax.Dense(10),
    )
    _, params = init(jax.random.PRNGKey(0), (BATCH, 8, 8, 1))
    steps = EPOCHS * -(-TRAIN // BATCH)
    warmup = round(config["warmup_fraction"] * steps)
    body = {
        "constant": lambda: optax.constant_schedule(config["peak_lr"]),
        "exponential_decay": lambda: optax.exponential_decay(config["peak_lr"], steps, 0.1),
        "cosine_decay": lambda: optax.cosine_decay_schedule(config["peak_lr"], steps - warmup),
    }[config["schedule"]]()
    ramp = optax.linear_schedule(0.0, config["peak_lr"], max(warmup, 1))
    optimizer = optax.sgd(optax.join_schedules([ramp, body], [warmup]), config["momentum"])
    state = optimizer.init(params)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        gradients = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    x_val = jnp.asarray(images[TRAIN : TRAIN + VALIDATION])
    y_val = jnp.asarray(labels[TRAIN : TRAIN + VALIDATION])
    accuracy = jax.jit(lambda params: (apply(params, x_val).argmax(-1) == y_val).mean())
    for _ in range(EPOCHS):
        order = np.random.permutation(TRAIN)
        for start in range(0, TRAIN, BATCH):
            batch = order[start : start + BATCH]
            params, state = step(params, state, images[batch], labels[batch])
        tune.report({"val_accuracy": float(accuracy(params))})


def main() -> None:
    """Run the search and print its wall time."""
    start = time.perf_counter()
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = {
        "schedule": tune.choice(["constant", "exponential_decay", "cosine_decay"]),
        "peak_lr": tune.loguniform(1e-3, 1),
        "warmup_fraction": tune.uniform(0, 0.2),
        "momentum": tune.uniform(0, 0.98),
    }
    with tempfile.TemporaryDirectory() as folder:
        tracking = MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="plain")
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                search_alg=OptunaSearch(seed=0),
                scheduler=ASHAScheduler(grace_period=3, reduction_factor=3, max_t=EPOCHS),
                num_samples=24,
                max_concurrent_trials=2,
            ),
            run_config=tune.RunConfig(
                storage_path=str(Path(folder) / "ray"), callbacks=[tracking], verbose=0
            ),
        ).fit()
    best = results.get_best_result()
    assert best.metrics is not None
    print(
        f"plain Ray Tune: {time.perf_counter() - start:.1f} s, best {best.metrics['val_accuracy']}"
    )


if __name__ == "__main__":
    main()
