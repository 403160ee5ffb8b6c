"""Runs a program under a container's seccomp profile, as a container engine would: for where there is none.

under_seccomp.py PROFILE [--without NAME,NAME] PROGRAM ARGUMENT...     (takes libseccomp's module for Python)
"""

import ctypes
import json
import os
import sys

import seccomp

PR_SET_NO_NEW_PRIVS = 38
OPERATIONS = {"SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}


def action(rule):
    if rule["action"] == "SCMP_ACT_ALLOW":
        return seccomp.ALLOW
    assert rule["action"] == "SCMP_ACT_ERRNO", rule
    return seccomp.ERRNO(rule["errnoRet"])


def load(path, without):
    with open(path, encoding="utf-8") as file:
        profile = json.load(file)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = seccomp.SyscallFilter(defaction=seccomp.ERRNO(profile["defaultErrnoRet"]))
    for rule in profile["syscalls"]:
        arguments = [
            seccomp.Arg(test["index"], OPERATIONS[test["op"]], test["value"], test["valueTwo"])
            for test in rule.get("args", [])
        ]
        for name in rule["names"]:
            try:
                number = seccomp.resolve_syscall(seccomp.Arch(), name)
            except (ValueError, RuntimeError):
                number = -1
            # Engines pass over what they do not know, and what another machine has.
            if number >= 0 and name not in without:
                allowed.add_rule(action(rule), number, *arguments)
    allowed.load()


def main(path, *command):
    without = set()
    if command[0] == "--without":
        without, command = set(command[1].split(",")), command[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    load(path, without)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
