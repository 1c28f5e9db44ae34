# SPDX-License-Identifier: Apache-2.0
"""Writes the model card, README.md beside the weights, from what was measured: accuracy.json of
evaluate.py, and make_demo.py's list of examples that the model gets wrong."""
import argparse
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASKS = {
    "describe": "describe the picture",
    "shape": "what shape is blue",
    "zone": "what is at the top left",
    "colour": "what colour is the star",
    "count": "how many shapes, how many stars",
    "where": "where is the red star",
    "exists": "is there a red star",
    "read number of 1": "read a number: 1 digit",
    "read number of 2": "2 digits",
    "read number of 3": "3 digits",
    "read word": "read a word",
}
PAIRS = {"pair count": "which picture has more shapes", "pair colour": "are they the same colour",
         "pair shape": "are they the same shape"}

CARD = """# qwen3vl-tiny

A Qwen3-VL of 2.84 M parameters (5.7 MB in bf16), trained from nothing by `tools/demo_model` on drawn
pictures, so that a demo and the tests of Cenote have a model whose answers can be checked. It is of
no other use. transformers 4.57.6 loads the directory unchanged (`Qwen3VLForConditionalGeneration`).

Licence: Apache-2.0, as the project. No outside data: every picture and sentence is made by the program.

## What it knows

One picture of 96 to 320 pixels a side, at most 65536 in all, that holds one to four shapes (circle,
square, triangle, star, cross) in six colours, or a number of one to three digits, or one of eight words; two
such pictures of shapes; "Count from 3 to 12." and "Repeat: red star." without any. Questions as in
`examples/examples.json` and `tools/demo_model/scenes.py`; other wordings mean nothing to it.

## How often it is right

Exact match of the whole greedy answer on {pictures} pictures that training never saw, bf16 weights
(`evaluate.py --seed {seed}`, torch fp32 arithmetic; a seed that nobody had looked at before, looked at
once). Cenote gives transformers' answers: `golden.fresh_pictures` asks both.

{table}

Two pictures: {pairs}.
Text alone: {texts}.
{weak}{examples}

| goal | wanted | measured |
| --- | --- | --- |
{goals}

A runner that makes a mistake is right less often. On the first {few} of the pictures ({few_asked}
questions, {few_right} right): without deepstack {deepstack} (training adds a constant to the image rows
that only deepstack takes away again), with positions in one dimension instead of M-RoPE {mrope}.
"""


WEAK = 90  # percent


def total(tasks, among=None):
    chosen = [v for k, v in tasks.items() if among is None or k in among]
    return [sum(v[i] for v in chosen) for i in range(2)]


def percent(right, asked):
    return 100 * right / asked


def cell(figures):
    right, asked = figures
    return f"{right}/{asked}" + ("" if right == asked else f", {percent(right, asked):.1f} %")


def points(figures):
    return f"{percent(*figures):.1f} %"


def table(results):
    sets = [results[k] for k in ("seen", "jpeg", "sizes")]
    lines = ["| task | unseen pictures | JPEG quality 75 | sides of 288 and 352 pixels, unseen |",
             "| --- | --- | --- | --- |"]
    for task, name in TASKS.items():
        lines.append(f"| {name} | " + " | ".join(cell(s[task]) for s in sets) + " |")
    lines.append("| **all** | " + " | ".join(f"**{cell(total(s))}**" for s in sets) + " |")
    return "\n".join(lines)


def goal(name, wanted, figures, least):
    right = percent(*figures)
    missed = "" if right >= least else f": **missed by {least - right:.1f} points**"
    return f"| {name} | {wanted} | {right:.1f} %{missed} |"


def goals(results):
    numbers = [f"read number of {n}" for n in (1, 2, 3)]
    few, bare = total(results["few"]), total(results["no deepstack"])
    cost = percent(*few) - percent(*bare)
    count = results["texts"]["count to"]
    return "\n".join([
        goal("unseen pictures", "96 %", total(results["seen"]), 96),
        goal("after JPEG quality 75", "95 %", total(results["jpeg"]), 95),
        goal("sizes that training did not use", "92 %", total(results["sizes"]), 92),
        goal("numbers of 1 to 3 digits", "92 %", total(results["seen"], numbers), 92),
        goal("two pictures", "90 %", total(results["pairs"]), 90),
        f"| cost of leaving deepstack out | at least 25 points | {cost:.1f} points"
        + (" |" if cost >= 25 else ": **missed** |"),
        f"| counting ends where it should | always | {cell(count)} |"])


def weak_text(results):
    """Names what a user should not rely on."""
    tasks = {**results["seen"], **results["pairs"], **results["texts"]}
    weak = sorted((percent(*figures), task) for task, figures in tasks.items())
    named = [f"{(TASKS | PAIRS).get(task, task)} ({right:.1f} %)" for right, task in weak if right < WEAK]
    return f"Do not rely on it for: {', '.join(named)}.\n" if named else ""


def examples_text(model):
    asked = len(json.loads((model / "examples/examples.json").read_text()))
    wrong = json.loads((ROOT / "tests/golden/demo/examples.json").read_text())["wrong"]
    if not wrong:
        return f"All {asked} examples in `examples/` are right."
    named = "; ".join(f"\"{e['question']}\" ({', '.join(e['images']) or 'no picture'}: it says "
                      f"\"{e['answer']}\", true is \"{e['truth']}\")" for e in wrong)
    return f"Of the {asked} examples in `examples/`, {asked - len(wrong)} are right; wrong: {named}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path, help="the model's directory, with accuracy.json")
    args = parser.parse_args()
    measured = json.loads((args.model / "accuracy.json").read_text())
    results = measured["results"]
    few = total(results["few"])
    pairs = ", ".join(f"{name} {cell(results['pairs'][task])}" for task, name in PAIRS.items())
    texts = total(results["texts"])
    (args.model / "README.md").write_text(CARD.format(
        pictures=measured["pictures"], seed=measured["seed"], table=table(results),
        pairs=f"{cell(total(results['pairs']))}\n({pairs})", weak=weak_text(results),
        texts=f"{cell(texts)} (counting from one number to another {cell(results['texts']['count to'])})",
        examples=examples_text(args.model), goals=goals(results), few=measured["pictures"] // 5,
        few_asked=few[1], few_right=points(few), deepstack=points(total(results["no deepstack"])),
        mrope=points(total(results["no mrope"]))))


if __name__ == "__main__":
    main()
