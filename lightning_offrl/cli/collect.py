"""``offrl collect``: a dataset from an environment, by built-in controllers or a trained policy."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_offrl.cli.parser import Parser, add_import, parse


def main(words: Sequence[str]) -> None:
    """Collect episodes, write them as a dataset, and print what was written."""
    options = parse(_parser(), words)
    from lightning_offrl.data.writers.collect import collect

    options["quality"] = _quality(options["quality"])
    if options["policy"] is not None:
        from lightning_offrl.policy import load_policy

        options["policy"] = load_policy(options["policy"])
    done = collect(options.pop("environment"), options.pop("dataset_id"), **options)
    config = "iql" if done.action_kind == "box" else "discrete_cql"
    print(f"{done.table}\nwritten to {done.path}\nnext: offrl fit --config {config} --data.source {done.dataset_id}")


def _parser() -> Parser:
    description = "Collect episodes with behavior policies and write them as a local Minari dataset."
    parser = Parser(prog="offrl collect", description=description)
    add = parser.add_argument
    add("environment", help="The Gymnasium id of the environment, such as Pendulum-v1.")
    add("dataset_id", help="The name of the new dataset, namespace/name-v0; other verbs take it as --data.")
    add("--episodes", type=int, default=150, help="The number of episodes.")
    add(
        "--quality",
        default="mixed",
        help="The quality of the built-in controllers: mixed, a number from 0 (random) to 1 (good), or several with "
        "commas: 0,0.5,1.",
    )
    add("--policy", metavar="FILE", help="An exported policy.pt that acts in place of the built-in controllers.")
    add(
        "--noise",
        type=float,
        default=0.1,
        help="The standard deviation of the noise on the actions, in halves of the action range.",
    )
    add("--seed", type=int, default=0, help="The seed of all random numbers.")
    add("--overwrite", action="store_true", help="Replace the dataset of this name if there is one.")
    add_import(parser)
    return parser


def _quality(text: str) -> str | float | list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return values[0] if len(values) == 1 else values
