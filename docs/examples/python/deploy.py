"""Submits a deployment and follows it to its end, or cancels one:

    python deploy.py CLUSTER_ID SNAPSHOT.json [DEPLOYMENT_ID]
    python deploy.py cancel DEPLOYMENT_ID [REASON]

The database and the portal's role come from DATABASE_URL, or from PGHOST, PGUSER and so on.
"""

import json
import os
import secrets
import sys
import time
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

ENDED = ("SUCCESS", "FAILED", "CANCELLED")


def uuid7() -> uuid.UUID:
    """A time-ordered id (RFC 9562); from Python 3.14 on there is uuid.uuid7()."""
    return uuid.UUID(int=time.time_ns() // 1_000_000 << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))


def submit(db, id, cluster_id, snapshot):
    """Queues a deployment once, however often it is sent with the same id."""
    db.execute(
        """INSERT INTO tendril.deployments (id, cluster_id, config_snapshot) VALUES (%s, %s, %s)
           ON CONFLICT (id) DO NOTHING""",
        (id, cluster_id, Jsonb(snapshot)),
    )
    row = db.execute("SELECT status FROM tendril.deployments WHERE id = %s", (id,)).fetchone()
    if row is None:
        raise SystemExit(f"deployment {id} is somebody else's: make a new id")
    return row["status"]


def follow(db, id):
    """Yields the deployment's state and the log chunks that came since, again and again, until all has been read."""
    position = {}  # a vector, since each attempt counts its records from 0: {attempt_id: last record that was read}
    quiet = 0
    while quiet <= 20:
        # The state first: what it says about the logs' ends is then older than the rows that are read after it.
        state = db.execute("SELECT tendril.status(%s) AS state", (id,)).fetchone()["state"]
        chunks = db.execute("SELECT * FROM tendril.logs_after(%s, %s)", (id, Jsonb(position))).fetchall()
        for chunk in chunks:
            position[str(chunk["attempt_id"])] = chunk["seq_to"]
        yield state, chunks
        if chunks:
            continue
        if state["status"] in ENDED:
            if all(log["log_state"] != "open" or is_read(log, position) for log in state["logs"]):
                return
            quiet += 1  # the log of a runner that was lost may come hours later: nobody waits for that here
        time.sleep(0.5)


def is_read(log, position):
    return log["log_end"] is not None and position.get(log["attempt_id"], -1) >= log["log_end"]


def cancel(db, id, reason):
    """Cancels at once what waits; asks what runs to stop."""
    return db.execute("SELECT tendril.cancel(%s, %s) AS status", (id, reason)).fetchone()["status"]


def main(db, first, second, third=None):
    if first == "cancel":
        print(cancel(db, second, third or "cancelled from Python"))
        return 0
    id = third or uuid7()
    print(f"deployment {id}", file=sys.stderr)
    with open(second) as file:
        submit(db, id, first, json.load(file))
    shown = None
    for state, chunks in follow(db, id):
        now = state["status"], state["waiting_for"]
        if now != shown:
            print(*filter(None, now), sep=", waits for ", file=sys.stderr)
            shown = now
        for chunk in chunks:
            print(chunk["log_chunk"], end="", flush=True)
    if state["error_message"]:
        print(state["error_message"], file=sys.stderr)
    if state["outputs"]:
        print(json.dumps(state["outputs"], indent=2), file=sys.stderr)
    return 0 if state["status"] == "SUCCESS" else 1


if __name__ == "__main__":
    # With autocommit every statement is a transaction of its own: nothing stays open while jobs run.
    with psycopg.connect(os.environ.get("DATABASE_URL", ""), autocommit=True, row_factory=dict_row) as db:
        try:
            sys.exit(main(db, *sys.argv[1:]))
        except psycopg.Error as error:
            # TD001 to TD013 are Tendril's own; TD001 lists every wrong key in its detail.
            if not (error.sqlstate or "").startswith("TD"):
                raise
            print(f"refused ({error.sqlstate}): {error.diag.message_primary}; {error.diag.message_hint}", file=sys.stderr)
            for problem in json.loads(error.diag.message_detail or "[]"):
                print(f"  {problem['path']}: {problem['message']}", file=sys.stderr)
            sys.exit(2)
