"""One or many runs: what is asked for (`grid`), and a process that does several (`worker`).

`launcher` hands them to workers on this machine, `slurm` to tasks on a cluster. Finished runs are found by their
`results.json`, so launchers may be started, killed and started again, on one machine or on several that share a disk.
"""
