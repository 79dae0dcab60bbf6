#!/usr/bin/env python3
"""built.py PROGRAM MESSAGES SBOM: whether SBOM names exactly the crates that were compiled for PROGRAM, by what cargo said while it built.

MESSAGES is the output of `cargo build --message-format json`, of one build or of several one after the other. Ends with exit code 1 and a line
for each crate that stands in one of the two only, and for each that linked what is not Rust and has no components in SBOM.
"""

import json
import re
import sys


def builds(lines):
    """Of each build: the program, the crates compiled as cargo names them, and those among them that link something static."""
    crates, native, program = set(), set(), None
    for line in lines:
        message = json.loads(line)
        if message["reason"] == "build-finished":
            yield program, crates, native
            crates, native, program = set(), set(), None
            continue
        crates.add(message["package_id"])
        if any(library.startswith("static=") for library in message.get("linked_libs", [])):
            native.add(message["package_id"])
        if message.get("executable") and message["target"]["kind"] == ["bin"]:
            program = message["target"]["name"]


def without_folder(crate):
    """A crate of this project as the SBOM names it, wherever it was built: path+file:///tmp/x/runner#tendril-runner@0.1.0."""
    return re.sub(r"^path\+file://.*#", "path:", crate)


def faults(crates, native, bom):
    """A line for each disagreement."""
    named = {without_folder(one["bom-ref"]) for one in [bom["metadata"]["component"], *bom["components"]] if "+" in one["bom-ref"].split(":")[0]}
    within = {one["bom-ref"] for one in bom["components"] if one.get("components")}
    compiled = {without_folder(crate) for crate in crates}
    yield from (f"{crate} was compiled and does not stand in the SBOM" for crate in sorted(compiled - named))
    yield from (f"{crate} stands in the SBOM and was not compiled" for crate in sorted(named - compiled))
    yield from (f"{crate} linked what is not Rust, and the SBOM does not say what" for crate in sorted(native - within))


def main(name, messages, sbom):
    with open(messages, encoding="utf-8") as file:
        found = {program: (crates, native) for program, crates, native in builds(file)}
    if name not in found:
        sys.exit(f"error: {messages} tells of no build of {name}")
    with open(sbom, encoding="utf-8") as file:
        wrong = list(faults(*found[name], json.load(file)))
    if wrong:
        sys.exit("\n".join(f"error: {name}: {fault}" for fault in wrong))
    print(f"{name}: its SBOM names the {len(found[name][0])} crates that were compiled")


if __name__ == "__main__":
    main(*sys.argv[1:])
