"""Many runs: what to run (`grid`), one run (`jobs`), a process that runs several (`worker`), several of these (`pool`).

Finished runs are found by their `results.json`, so launchers may be started, killed and started again, on one machine
or on several that share a disk.
"""
