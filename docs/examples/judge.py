# SPDX-License-Identifier: Apache-2.0
"""A judge of submitted programs: eight threads share one Sandbox, every program gets a fresh one.

Prints:
    adds: accepted
    wrong: wrong answer
    crashes: exit status 3
    loops: time limit
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from wherry import Sandbox

SUBMISSIONS = {
    "adds": "read a b; echo $((a + b))",
    "wrong": "echo 41",
    "crashes": "exit 3",
    "loops": "while :; do :; done",
}

box = Sandbox(sys.argv[1], timeout=2, allow_missing={"memory", "pids", "cpu"}, root=os.environ.get("WHERRY_ROOT"))


def verdict(program: str) -> str:
    result = box.run(["sh", "-c", program], input=b"20 22\n")
    if result.timed_out:
        return "time limit"
    if result.oom:
        return "memory limit"
    if result.code:
        return f"exit status {result.code}"
    return "accepted" if result.text == "42\n" else "wrong answer"


with ThreadPoolExecutor(8) as pool:
    for name, told in zip(SUBMISSIONS, pool.map(verdict, SUBMISSIONS.values()), strict=True):
        print(f"{name}: {told}")
