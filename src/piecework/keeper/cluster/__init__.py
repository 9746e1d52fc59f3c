"""The keeper of a cluster: admits waiting pods, records what happens, gives machines back.

    watches, cloud  ->  State  ->  Snapshot  ->  decide  ->  actions  ->  Executor
                          |
                          +----->  events  ->  ledger

Everything is decided by pure functions over a snapshot (`admit`, `give_back`, `orphans`, `finish`),
recorded by pure functions over objects (`record`), and carried out by `apply`, so that `--dry-run`
prints what would be done, and a keeper that is killed at any point finds all that it needs again.
"""
