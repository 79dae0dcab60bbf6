"""What bom.py and built.py find: each test takes a file that is right and makes one thing wrong. Run by `./dev lint sbom`."""

import copy
import json
import unittest

import bom
import built

CRATES = """\
0 ship v1.0.0 (/tmp/w/tree/ship)
1 hull v2.0.0
2 derive v1.1.0 (proc-macro)
2 engine-sys v3.0.0+engine.9
3 cc v1.2.0
1 mast v0.5.0 (/tmp/w/tree/mast)
2 hull v2.0.0 (*)
"""
LINKED = """\
0 ship v1.0.0 (/tmp/w/tree/ship)
1 hull v2.0.0
2 engine-sys v3.0.0+engine.9
1 mast v0.5.0 (/tmp/w/tree/mast)
2 hull v2.0.0 (*)
"""
ENGINE = "engine-sys@3.0.0+engine.9"
BEYOND = {
    "library": {"type": "library", "bom-ref": "rust-std@1.0.0", "name": "rust-std", "version": "1.0.0", "licenses": [{"expression": "MIT"}]},
    "crates": {ENGINE: [{"type": "library", "bom-ref": "engine", "name": "engine", "version": "9"}]},
}
REGISTERED = ["hull@2.0.0", "derive@1.1.0", ENGINE, "cc@1.2.0", "only-for-tests@7.0.0"]
LOCKED = {crate: f"{number:064}" for number, crate in enumerate(REGISTERED)}


def described():
    """As cargo-cyclonedx describes the workspace: a crate more than the program has."""

    def one(crate, ref, **more):
        name, version = crate.split("@")
        return {"type": "library", "bom-ref": ref, "name": name, "version": version, "scope": "required",
                "licenses": [{"expression": "MIT"}], "purl": f"pkg:cargo/{crate}"} | more

    registered = [one(crate, bom.REGISTRY + crate, hashes=[{"alg": "SHA-256", "content": LOCKED[crate]}]) for crate in REGISTERED]
    mast = one("mast@0.5.0", "path+file:///tmp/w/tree/mast#mast@0.5.0", purl="pkg:cargo/mast@0.5.0?download_url=file://../mast")
    root = one("ship@1.0.0", "path+file:///tmp/w/tree/ship#ship@1.0.0", purl="pkg:cargo/ship@1.0.0?download_url=file://.")
    return {"metadata": {"component": root, "properties": []}, "components": [*registered, mast], "dependencies": []}


class Bom(unittest.TestCase):
    def setUp(self):
        self.program = bom.Program(CRATES, LINKED)
        self.bom = bom.write_bom(described(), self.program, BEYOND, "c0ffee", "/tmp/w/tree")

    def component(self, name):
        return next(one for one in self.bom["components"] if one["name"] == name)

    def faults(self, locked=LOCKED, rust="1.0.0"):
        return bom.check(self.bom, self.program, BEYOND, locked, rust)

    def assert_fault(self, words, **words_of_check):
        faults = self.faults(**words_of_check)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(words, faults[0])

    def test_a_right_file_has_the_programs_crates_and_no_other(self):
        self.assertEqual(self.faults(), [])
        scopes = {one["name"]: one.get("scope") for one in self.bom["components"]}
        self.assertEqual(scopes, {"cc": "excluded", "derive": "excluded", "engine-sys": "required", "hull": "required", "mast": "required", "rust-std": None})
        self.assertEqual(self.component("engine-sys")["components"][0]["name"], "engine")

    def test_edges_are_those_of_cargo(self):
        edges = {edge["ref"]: edge["dependsOn"] for edge in self.bom["dependencies"]}
        self.assertEqual(edges["path+file:///tendril/mast#mast@0.5.0"], [bom.REGISTRY + "hull@2.0.0"])
        self.assertEqual(edges[bom.REGISTRY + "hull@2.0.0"], [bom.REGISTRY + "derive@1.1.0", bom.REGISTRY + ENGINE])
        self.assertIn("rust-std@1.0.0", edges["path+file:///tendril/ship#ship@1.0.0"])

    def test_the_same_from_another_folder_is_the_same(self):
        moved = json.loads(json.dumps(described()).replace("/tmp/w/tree", "/home/me/odd%20place"))
        self.assertEqual(bom.write_bom(moved, self.program, BEYOND, "c0ffee", "/home/me/odd place"), self.bom)
        self.assertNotEqual(bom.write_bom(described(), self.program, BEYOND, "other", "/tmp/w/tree")["serialNumber"], self.bom["serialNumber"])

    def test_a_crate_that_is_missing_is_a_fault(self):
        self.bom["components"].remove(self.component("hull"))
        self.assert_fault("hull@2.0.0 belongs to the program and is not described")

    def test_a_crate_too_many_is_a_fault(self):
        self.bom["components"].append(copy.deepcopy(described()["components"][4]))
        self.assert_fault("only-for-tests@7.0.0 is described and does not belong to the program")

    def test_a_missing_licence_is_a_fault(self):
        del self.component("hull")["licenses"]
        self.assert_fault("hull@2.0.0 has no licence")

    def test_a_missing_or_other_checksum_is_a_fault(self):
        self.assert_fault("hull@2.0.0 has not the checksum", locked=LOCKED | {"hull@2.0.0": "f" * 64})
        del self.component("derive")["hashes"]
        self.assert_fault("derive@1.1.0 has not the checksum")

    def test_another_address_is_a_fault(self):
        self.component("cc")["purl"] = "pkg:cargo/cc@1.2.1"
        self.assert_fault("cc@1.2.0 has another address")

    def test_native_code_that_nobody_named_is_a_fault(self):
        del self.component("engine-sys")["components"]
        self.assert_fault("engine-sys@3.0.0+engine.9 brings what is not Rust")

    def test_a_crate_that_only_links_is_looked_at_too(self):
        self.component("hull")["externalReferences"] = [{"type": "other", "url": "hull"}]
        self.assert_fault("hull@2.0.0 brings what is not Rust")

    def test_another_compiler_needs_another_library(self):
        self.assert_fault("1.1.0 is pinned", rust="1.1.0")

    def test_the_folder_where_it_was_made_is_a_fault(self):
        self.component("mast")["purl"] += "?download_url=file://../mast"
        self.assert_fault("in which folder")


class Built(unittest.TestCase):
    def setUp(self):
        self.bom = bom.write_bom(described(), bom.Program(CRATES, LINKED), BEYOND, "c0ffee", "/tmp/w/tree")
        crates = [*(bom.REGISTRY + crate for crate in REGISTERED[:4]), "path+file:///b/mast#mast@0.5.0", "path+file:///b/ship#ship@1.0.0"]
        self.messages = [{"reason": "compiler-artifact", "package_id": crate, "target": {"kind": ["lib"], "name": "x"}} for crate in crates]
        self.messages[-1] |= {"executable": "/b/target/ship", "target": {"kind": ["bin"], "name": "ship"}}
        self.messages.append({"reason": "build-script-executed", "package_id": bom.REGISTRY + ENGINE, "linked_libs": ["static=engine"]})
        self.messages.append({"reason": "build-finished", "success": True})

    def faults(self):
        ((program, crates, native),) = built.builds(map(json.dumps, self.messages))
        self.assertEqual(program, "ship")
        return list(built.faults(crates, native, self.bom))

    def test_what_was_compiled_is_what_is_named(self):
        self.assertEqual(self.faults(), [])

    def test_a_crate_that_was_compiled_and_is_not_named_is_a_fault(self):
        self.bom["components"] = [one for one in self.bom["components"] if one["name"] != "hull"]
        self.assertEqual(self.faults(), [f"{bom.REGISTRY}hull@2.0.0 was compiled and does not stand in the SBOM"])

    def test_a_crate_that_is_named_and_was_not_compiled_is_a_fault(self):
        del self.messages[1]
        self.assertEqual(self.faults(), [f"{bom.REGISTRY}derive@1.1.0 stands in the SBOM and was not compiled"])

    def test_a_static_library_that_nobody_named_is_a_fault(self):
        self.messages[0] |= {"linked_libs": ["static=hull"]}
        self.assertEqual(self.faults(), [f"{bom.REGISTRY}hull@2.0.0 linked what is not Rust, and the SBOM does not say what"])

    def test_builds_one_after_the_other_are_told_apart(self):
        other = copy.deepcopy(self.messages)
        other[5]["target"]["name"] = "boat"
        found = built.builds(map(json.dumps, self.messages + other))
        self.assertEqual([program for program, _, _ in found], ["ship", "boat"])


if __name__ == "__main__":
    unittest.main()
