#!/usr/bin/env python3
"""Writes a folder as an OCI image archive of one layer: image.py OUT.tar NAME:TAG USER FOLDER [ENTRYPOINT...]

The same folder gives the same bytes: owners, times and orders are fixed."""
import hashlib
import io
import json
import os
import sys
import tarfile


def main(out, name, user, folder, *entrypoint):
    blobs = {}

    def blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    layer = blob(layer_of(folder), "layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": user, "Entrypoint": list(entrypoint), "WorkingDir": "/", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(as_json(config), "config.v1+json"),
        "layers": [layer],
    }
    listed = blob(as_json(manifest), "manifest.v1+json")
    listed["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    with tarfile.open(out, "w") as archive:
        put(archive, "oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
        put(archive, "index.json", as_json({"schemaVersion": 2, "manifests": [listed]}))
        for digest, content in sorted(blobs.items()):
            put(archive, f"blobs/sha256/{digest}", content)


def as_json(value):
    return json.dumps(value, sort_keys=True).encode()


def put(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def layer_of(folder):
    def plain(entry):
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in sorted(os.listdir(folder)):
            archive.add(os.path.join(folder, name), arcname=name, filter=plain)
    return layer.getvalue()


main(*sys.argv[1:])
