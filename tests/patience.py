"Waiting in tests: a slow machine is no failure, a hang is."
import time

def soon(happens, seconds=600):
    "Whether something happens before ten minutes are over."
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end: time.sleep(.05)
    return happens()
