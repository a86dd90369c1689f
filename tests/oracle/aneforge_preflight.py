"""Our programs rebuilt as ANEForge's graphs, and what it says about them chip by chip.

    python aneforge_preflight.py ANNEAL

ANNEAL is the binary. ANEForge (PyPI `aneforge`) knows for each generation of the engine which ops are native and
how long an axis may be, as measured by its authors on M1, M2 and M5. Four parts of it speak here, none of which
needs a Mac: its functions, which refuse to build some graphs at all; its `preflight`; its catalogue of ops; and what
it warns of when it compiles a graph with slices of the last axis. Every program of every preset at 512 tokens in
every cut is rebuilt from our text (`aneforge_graphs.py`), and so are programs that break a rule on purpose. Then

* a program has the same faults for a chip by both sides, each of them named by its cause: what ANEForge objects to
  against the errors of `anneal mil lint --route ane`, and its rule ANE-054, which is a warning on both sides;
* a graph that is too long has an axis too long at a value of which our lint says so.

What only one side says stands in KNOWN with the reason, and has to be found. Planted faults have to be seen.
"""

import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from copy import deepcopy
from pathlib import Path

import aneforge as af
from aneforge._compile import _warn_h13_slice_saturation
from aneforge._targets import limit, preflight

from aneforge_broken import ALL, BROKEN
from aneforge_graphs import STATEMENT, Mismatch, rebuild

# Chip and ANEForge's family.
CHIPS = {"m1": 2, "m2": 3, "m3": 4, "m4": 5, "m5": 5}
PRESETS = ["odd", "odd-all", "tiny", "deep-5m", "gpt-48m", "autoresearch", "gpt-68m", "stories110m", "qwen3-0.6b"]
CUTS = ["whole", "attn|ffn", "ten"]

# What a rule of ours is about, in the words of this script. The cause of another rule is its id.
CAUSES = {
    "ANE-RANK": "rank",
    "ANE-AXIS": "axis",
    "ANE-075": "axis",
    "ANE-047": "kernel",
    "ANE-048-BATCH": "batch",
    "ANE-072": "type",
    "ANE-INT32": "int32",
    "ANE-054": "slice",
    "ANE-055": "joined",
}

# What only one side says: program, chips, who, cause, and why the other does not.
KNOWN = [
    (
        "sines", {"m3", "m4", "m5"}, "we", "op",
        "native from M3 on; anneal has no such op on any chip, and its reader refuses it by name",
    ),
    ("cosines", {"m3", "m4", "m5"}, "we", "op", "as for sines"),
    ("a sort", ALL - {"m1"}, "we", "op", "native from M2 on; anneal has no such op"),
    (
        "a batch of 16,400", {"m1", "m2", "m3"}, "they", "axis",
        "its measurements are of height, width, contraction and channels (limits in _targets.py); preflight holds the "
        "outermost axis to the limit of height and width, we to that of channels. No program of ours has such an axis",
    ),
    ("three axes, the first of 16,400", {"m1", "m2", "m3"}, "they", "axis", "as for a batch: we take it for channels"),
    (
        "a transpose of 16,400 rows", {"m1", "m2", "m3"}, "we", "axis",
        "its limits give a transpose and what goes in 2^23 - 1, its catalogue of ops 16,384: we keep to the smaller",
    ),
    (
        "a transpose of 65,600 rows", ALL, "we", "axis",
        "its limits give a transpose 2^23 - 1 and more, its catalogue of ops 16,384 and 65,536: we keep to the smaller",
    ),
    (
        "two parts of the last axis, joined", {"m1", "m2"}, "we", "joined",
        "it counts slices that begin beyond 0; we take two parts for joined, wherever they begin (ANE-055)",
    ),
    (
        "two inner slices of the last axis, joined", {"m3"}, "they", "joined",
        "it warns for every chip before M4 (_warn_h13_slice_saturation), and its catalogue of ops tells of wrong "
        "elements on M2; ANE-055 is of M1 and M2",
    ),
    (
        "halves of the last axis", {"m1", "m2"}, "we", "slice",
        "it looks at slice_by_size only; the second half of a split is the same crop (ANE-054)",
    ),
    ("a reduction times zero", ALL, "we", "ANE-049", "it finds out by compiling; preflight does not look at values"),
    ("a transposed operand of five axes", ALL, "we", "ANE-052", "it is in its notes; preflight looks at single ops"),
    ("an output that is an input", ALL, "we", "ANE-071", "its compile() multiplies by 1 of its own accord"),
]

failures = []


def report(ok, text):
    print(("PASS  " if ok else "FAIL  ") + text)
    if not ok:
        failures.append(text)


# What ANEForge says.


def theirs(built, chip):
    """Cause -> what it says, a list, of a rebuilt program for a chip."""
    family = CHIPS[chip]
    said = defaultdict(list, {cause: [text] for cause, text in built.refused.items()})
    for op in built.ops:
        # It knows none of a few names; the functions that it has for them are looked at below.
        if af.device_status(op, chip) not in ("native", None):
            said["op"].append(f"{op} is {af.device_status(op, chip)}")
    if "int32" in built.casts and family == 2 and "`cast(->int32)` is **walled on M1**" in af.op_info("cast")["note"]:
        said["int32"].append("cast to int32")
    if not built.outputs:
        return said
    # One node above all outputs: a graph has one end.
    root = af.Tensor((1,), "outputs", built.outputs)
    verdict = preflight(root, family)
    for node in verdict.reject + verdict.decompose:
        said["op"].append(f"{node.op}: not native")
    for node in verdict.oversize:
        wide_kernel = node.op == "conv" and max(node.shape) <= limit("max_tensor_dim", family)
        said["kernel" if wide_kernel else "axis"].append(node.shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_h13_slice_saturation(root, family)
    for warning in caught:
        said["joined" if "WRONG ELEMENTS" in str(warning.message) else "slice"].append(str(warning.message))
    return said


# What we say.


def lint(anneal, *arguments):
    """Program -> cause -> findings."""
    done = subprocess.run([anneal, "mil", "lint", *arguments, "--json"], capture_output=True, text=True)
    found = defaultdict(lambda: defaultdict(list))
    if not done.stdout and re.search("the op `.*` is unknown", done.stderr):
        found[arguments[0]]["op"].append({"place": "the program", "message": done.stderr})
        return found
    assert done.returncode in (0, 1), done.stderr
    for finding in json.loads(done.stdout)["findings"]:
        if finding["severity"] == "error" or finding["rule"] == "ANE-054":
            cause = CAUSES.get(finding["rule"], finding["rule"])
            found[finding["program"]][cause].append(finding)
    return found


# Both.


def shapes_named(built, findings):
    """The shapes of the values that our findings are about."""
    names = [re.sub(r"^port | = \w+$", "", finding["place"]) for finding in findings]
    return {tuple(built.values[name].shape) for name in names if name in built.values}


def differences(built, they, we):
    """(who, cause) of what one side says alone; who is "both" where they do not mean the same place."""
    alone = [("they", cause) for cause in they.keys() - we.keys()]
    alone += [("we", cause) for cause in we.keys() - they.keys()]
    for cause in they.keys() & we.keys():
        if cause == "axis" and built.outputs and not shapes_named(built, we[cause]) & set(they[cause]):
            alone.append(("both", cause))
        if cause == "slice" and len(we[cause]) != len(they[cause]):
            alone.append(("both", cause))
    return sorted(alone)


class Tally:
    """Verdicts, and the differences among them that KNOWN has."""

    def __init__(self):
        self.verdicts, self.agreed, self.wrong = 0, Counter(), 0
        self.seen = defaultdict(set)

    def add(self, name, chip, built, they, we):
        self.verdicts += 1
        self.agreed.update(they.keys() & we.keys())
        for who, cause in differences(built, they, we):
            known = next((k for k in KNOWN if k[0] == name and chip in k[1] and k[2:4] == (who, cause)), None)
            if known:
                self.seen[KNOWN.index(known)].add(chip)
                continue
            self.wrong += 1
            print(f"      {name}, {chip}, {cause}: ANEForge {they.get(cause, [])[:2]}, ours {we.get(cause, [])[:2]}")

    def tell_known(self):
        """Prints the differences that KNOWN has. Whether one of them was not found."""
        missing = 0
        for at, (name, chips, who, cause, why) in enumerate(KNOWN):
            if self.seen[at] != chips:
                missing += 1
                print(f"      {name}, {who}, {cause}: expected on {sorted(chips)}, found on {sorted(self.seen[at])}")
                continue
            print(f"      {name}: {who} alone say {cause!r} on {' '.join(sorted(chips))}; {why}")
        return missing


def printed(anneal, root, preset, cut):
    """Folders of a preset's programs in a cut, and the arguments that name them."""
    folder = root / preset / cut.replace("|", "_")
    chosen = ["--preset", preset, "--cut", cut, "--seq", "512"]
    subprocess.run([anneal, "mil", "print", *chosen, "--out", folder], check=True, capture_output=True)
    return sorted(folder.iterdir()), chosen


def of_presets(anneal, root):
    tally, ops, programs, broadcast, unknown = Tally(), Counter(), 0, 0, set()
    for preset in PRESETS:
        for cut in CUTS:
            folders, chosen = printed(anneal, root, preset, cut)
            ours = {chip: lint(anneal, *chosen, "--chip", chip) for chip in CHIPS}
            for path in folders:
                # Head and decoding are the same in every cut.
                if cut != "whole" and path.name.startswith(("head", "layer_decode")):
                    continue
                try:
                    built = rebuild((path / "model.mil").read_text())
                except Mismatch as mismatch:
                    tally.wrong += 1
                    print(f"      {preset}/{cut}/{path.name}: {mismatch}")
                    continue
                programs, broadcast = programs + 1, broadcast + built.broadcast
                ops.update(built.ops)
                unknown |= {op for op in built.ops if af.device_status(op, "m1") is None}
                for chip in CHIPS:
                    name = f"{preset}/{cut}/{path.name}"
                    tally.add(name, chip, built, theirs(built, chip), ours[chip][path.name])
    print(f"      {broadcast} products broadcast their first operand, which its `@` does not: nodes made by hand")
    if unknown:
        print(f"SKIP  its catalogue of ops does not have {sorted(unknown)}")
    agreed = ", ".join(f"{count} x {cause}" for cause, count in sorted(tally.agreed.items())) or "no fault at all"
    report(
        tally.wrong == 0,
        f"{programs} programs with {ops.total()} ops of {len(ops)} kinds: shapes are ANEForge's, {tally.verdicts} "
        f"verdicts for {len(CHIPS)} chips agree (named by both: {agreed})",
    )


def of_broken(anneal, root):
    tally, unexpected = Tally(), 0
    for number, (name, text, expected) in enumerate(BROKEN):
        path = root / f"{number}.mil"
        path.write_text(text)
        built = rebuild(text)
        for chip in CHIPS:
            they, we = theirs(built, chip), lint(anneal, str(path), "--chip", chip)[str(path)]
            tally.add(name, chip, built, they, we)
            both = they.keys() & we.keys()
            wanted = {cause for cause, chips in expected.items() if chip in chips}
            if both != wanted:
                unexpected += 1
                print(f"      {name}, {chip}: both name {sorted(both)}, expected {sorted(wanted)}")
    print("      differences that are understood:")
    missing = tally.tell_known()
    report(
        tally.wrong + unexpected + missing == 0,
        f"{len(BROKEN)} programs made to break a rule, or just not to, for {len(CHIPS)} chips: both name the same "
        f"causes ({', '.join(f'{count} x {cause}' for cause, count in sorted(tally.agreed.items()))}) but for "
        f"{sum(len(k[1]) for k in KNOWN)} differences that are listed",
    )


# Planted faults: each changes what one side looks at, and says of which chips that has to be seen.


def plant_op(built, we):
    op = next((node for node in built.values.values() if getattr(node, "op", "") in ("silu", "relu", "exp")), None)
    if op is not None:
        op.op = "sin"
    return op is not None and ({"m1", "m2"}, "op")


def plant_axis(built, we):
    node = built.outputs[0]
    node.shape = (*node.shape[:-1], 16_400)
    return {"m1", "m2", "m3"}, "axis"


def plant_cast(built, we):
    built.casts.add("int32")
    return {"m1"}, "int32"


def plant_finding(built, we):
    for findings in we.values():
        findings["ANE-052"].append({"place": "the program", "message": "planted"})
    return set(CHIPS), "ANE-052"


def plant_wrong_place(built, we):
    # Both have an axis too long, but not the same one.
    node, name = built.outputs[0], next(iter(built.values))
    node.shape = (*node.shape[:-1], 70_000)
    for findings in we.values():
        findings["axis"].append({"place": f"port {name}", "message": "planted"})
    return set(CHIPS), "axis"


FAULTS = {
    "an op that M1 and M2 lack": plant_op,
    "an axis too long for M1 to M3": plant_axis,
    "a cast that M1 lacks": plant_cast,
    "a finding of ours that nobody else has": plant_finding,
    "a finding of ours in another place": plant_wrong_place,
}


def declares_another_shape(text):
    """`text` with one more element in the first result that has a shape and is no constant."""
    lines = text.splitlines()
    at = next(at for at, line in enumerate(lines) if (m := STATEMENT.match(line)) and m["op"] != "const")
    lines[at] = re.sub(r"(\d+)\]>", lambda m: f"{int(m[1]) + 1}]>", lines[at], count=1)
    return "\n".join(lines)


def of_faults(anneal, root):
    folders, chosen = printed(anneal, root, "tiny", "whole")
    texts = [(path / "model.mil").read_text() for path in folders]
    ours = {chip: lint(anneal, *chosen, "--chip", chip) for chip in CHIPS}
    seen = 0
    for text in texts:
        try:
            rebuild(declares_another_shape(text))
        except Mismatch:
            seen += 1
    missed = len(texts) - seen
    print(f"      a shape that is not inferred: seen in {seen} of {len(texts)} programs")
    for name, plant in FAULTS.items():
        tried = seen = 0
        for path, text in zip(folders, texts):
            built, we = rebuild(text), {chip: deepcopy(ours[chip][path.name]) for chip in CHIPS}
            planted = plant(built, we)
            if not planted:
                continue
            tried += 1
            chips, cause = planted
            found = {chip: differences(built, theirs(built, chip), we[chip]) for chip in CHIPS}
            seen += {chip for chip in CHIPS if cause in [c for _, c in found[chip]]} == chips
        missed += tried - seen + (tried == 0)
        print(f"      {name}: seen in {seen} of {tried} programs")
    report(missed == 0, f"{len(FAULTS) + 1} planted faults, in every program of tiny that has room for one, are seen")


def main():
    [anneal] = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        of_broken(anneal, Path(folder))
        of_presets(anneal, Path(folder))
        of_faults(anneal, Path(folder))
    sys.exit(1 if failures else 0)


main()
