#!/usr/bin/env python3
"""bom.py PROGRAM COMMIT FOLDER OUT: writes OUT, the CycloneDX file of PROGRAM.

FOLDER holds `described` (of cargo-cyclonedx: more crates than the program has), `crates` and `linked` (of `cargo tree`: all that the program
is built of, and what of it is code of the program) and `tree`, the commit. OUT has exactly the crates of `crates`; what only takes part in
building has the scope `excluded`. What is no crate comes from beyond.json. Ends with exit code 1 and a line for each fault that check() finds,
or where CycloneDX's schema does not take the file.
"""

import json
import pathlib
import re
import sys
import uuid

HERE = pathlib.Path(__file__).parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index#"
# Who depends on one of these while building compiles or links what is not Rust.
NATIVE_BUILDERS = {"cc", "cmake", "nasm-rs", "pkg-config", "system-deps", "vcpkg"}


class Program:
    """What cargo says: `root`, `crates` (all of them, the own ones too), `own`, `linked`, as NAME@VERSION, and `needs`: whom each depends on."""

    def __init__(self, crates, linked):
        self.needs, self.own, above = {}, set(), []
        for depth, crate, own in map(tree_line, crates.splitlines()):
            self.needs.setdefault(crate, set())
            if own:
                self.own.add(crate)
            if depth > 0:
                self.needs[above[depth - 1]].add(crate)
            above[depth:] = [crate]
        self.crates, self.root = set(self.needs), above[0]
        self.linked = {crate for _, crate, _ in map(tree_line, linked.splitlines())}


def tree_line(line):
    """Of a line of `cargo tree --prefix depth --format ' {p}'`: the depth, NAME@VERSION, and whether it is a crate of this project."""
    match = re.fullmatch(r"(\d+) (\S+) v(\S+)((?: \([^)]*\))*)", line)
    if not match:
        sys.exit(f"error: cargo tree says what is not understood: {line!r}")
    return int(match[1]), f"{match[2]}@{match[3]}", " (/" in match[4]


def toml_words(text):
    """The lines KEY = "WORD" of a table; Python reads TOML since 3.11 only, and Ubuntu 22.04 has an older one."""
    return dict(re.findall(r'^(\w+) = "(.*)"$', text, re.MULTILINE))


def name_of(component):
    return f"{component['name']}@{component['version']}"


def write_bom(described, program, beyond, commit, tree):
    """The file's content: of what is described that which belongs to the program, told without the folder in which this ran."""
    described = json.loads(json.dumps(described).replace(f"{pathlib.Path(tree).as_uri()}/", "file:///tendril/"))
    root = described["metadata"]["component"]
    every = {name_of(one): one for one in described["components"] if name_of(one) in program.crates} | {name_of(root): root}
    for crate, one in every.items():
        one["scope"] = "required" if crate in program.linked else "excluded"
        if crate in program.own:  # crates.io has none of that name, or somebody else's
            one["purl"] = f"pkg:generic/{crate}"
        elif crate in program.linked and crate in beyond["crates"]:
            one["components"] = beyond["crates"][crate]
    refs = {crate: one["bom-ref"] for crate, one in every.items()}
    edges = {refs[crate]: [refs[need] for need in needs if need in refs] for crate, needs in program.needs.items() if crate in refs}
    edges.setdefault(root["bom-ref"], []).append(beyond["library"]["bom-ref"])
    edges[beyond["library"]["bom-ref"]] = []
    described["components"] = [one for crate, one in sorted(every.items()) if one is not root] + [beyond["library"]]
    described["dependencies"] = [{"ref": ref, "dependsOn": sorted(needs)} for ref, needs in sorted(edges.items())]
    described["metadata"]["properties"].append({"name": "tendril:commit", "value": commit})
    described["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(described, sort_keys=True)).urn
    return described


def check(bom, program, beyond, locked, rust):
    """What is wrong with the file, by what cargo, Cargo.lock (NAME@VERSION to SHA-256) and the pinned compiler say: a line for each."""
    crates = {name_of(one): one for one in bom["components"] if one["bom-ref"] != beyond["library"]["bom-ref"]}
    crates[name_of(bom["metadata"]["component"])] = bom["metadata"]["component"]
    faults = [f"{crate} belongs to the program and is not described" for crate in program.crates - crates.keys()]
    faults += [f"{crate} is described and does not belong to the program" for crate in crates.keys() - program.crates]
    for crate, one in crates.items():
        if not one.get("licenses"):
            faults.append(f"{crate} has no licence")
        if crate not in program.own:
            faults += check_registered(crate, one, locked)
        if crate in program.linked:
            faults += check_native(crate, one, {need.split("@")[0] for need in program.needs.get(crate, ())})
    if beyond["library"]["version"] != rust:
        faults.append(f"beyond.json has the library of Rust {beyond['library']['version']}, and {rust} is pinned: take the checksum of rust-std "
                      "from lib/rustlib/multirust-channel-manifest.toml of the new compiler")
    if re.search("file://(?!/tendril/)", json.dumps(bom)):
        faults.append("it tells in which folder it was made")
    return sorted(faults)


def check_registered(crate, one, locked):
    """Of a crate from the registry: its address, and the checksum that cargo compares the download with."""
    if one.get("bom-ref") != REGISTRY + crate or one.get("purl") != f"pkg:cargo/{crate}":
        yield f"{crate} has another address: {one.get('bom-ref')}, {one.get('purl')}"
    if not locked.get(crate) or {"alg": "SHA-256", "content": locked[crate]} not in one.get("hashes", []):
        yield f"{crate} has not the checksum of Cargo.lock"


def check_native(crate, one, needs):
    """Of a crate in the program: whether what it compiles or links beside Rust is named."""
    links = any(reference["type"] == "other" for reference in one.get("externalReferences", []))
    if (links or needs & NATIVE_BUILDERS) and not one.get("components"):
        yield f"{crate} brings what is not Rust: see what that is, and name it in beyond.json"


def check_schema(bom):
    """What CycloneDX's schema says against it."""
    import cyclonedx.schema  # for the files that lie beside it
    import fastjsonschema

    folder = pathlib.Path(cyclonedx.schema.__file__).parent / "_res"

    def load(address):
        return json.loads((folder / address.rsplit("/", 1)[-1]).read_text("utf-8"))

    try:
        fastjsonschema.compile(load("bom-1.5.SNAPSHOT.schema.json"), handlers={"http": load})(bom)
    except fastjsonschema.JsonSchemaValueException as refusal:
        yield f"CycloneDX's schema does not take it: {refusal}"


def main(name, commit, folder, out):
    folder = pathlib.Path(folder)
    tree = folder / "tree"
    program = Program((folder / "crates").read_text(), (folder / "linked").read_text())
    beyond = json.loads((HERE / "beyond.json").read_text())
    locked = {name_of(one): one.get("checksum") for one in map(toml_words, (tree / "Cargo.lock").read_text().split("[[package]]")[1:])}
    rust = toml_words((tree / "rust-toolchain.toml").read_text())["channel"]
    bom = write_bom(json.loads((folder / "described").read_text()), program, beyond, commit, tree)
    faults = [*check(bom, program, beyond, locked, rust), *check_schema(bom)]
    if faults:
        sys.exit("\n".join(f"error: {name}: {fault}" for fault in faults))
    pathlib.Path(out).write_text(json.dumps(bom, indent=1, ensure_ascii=False) + "\n", "utf-8")
    building = len(program.crates - program.linked)
    print(f"{name}: {len(program.linked)} crates in the program, {building} that only build it; {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
