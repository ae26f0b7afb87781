"""The smoke demo, on the machine as it is and with one core taken, under two ways in which OpenMP's threads wait."""
import argparse, multiprocessing, tempfile
from common import child, machine, show

def spin():
    while True: pass

def seconds(policy, taken):
    "A whole smoke demo as a command; another process may take one core all the while."
    other = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    if taken: other.start()
    with tempfile.TemporaryDirectory() as out:
        command = ("-m", "videop2r.tools.cli", "demo", "--preset", "smoke", "--out", f"{out}/run")
        try: return child(*command, OMP_WAIT_POLICY=policy)["seconds"]
        finally:
            if taken: other.kill()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    args = parser.parse_args()
    def best(*how): return min(seconds(*how) for _ in range(args.rounds))
    rows = [{"threads wait": policy, "quiet, s": best(policy, False), "one core taken, s": best(policy, True)} for policy in ("ACTIVE", "PASSIVE")]
    for row in rows: row["taken / quiet"] = row["one core taken, s"] / row["quiet, s"]
    show(rows, args.json, machine("torch"))
