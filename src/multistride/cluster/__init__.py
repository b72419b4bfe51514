"""Work that many processes share: over the cores of one machine, or over a Ray cluster.

    spread.py   the seam: items in, each with its result out, in order; here, without Ray
    pool.py     the same on Ray's workers; imported only where `--ray` was given (extra [ray])

Rooms above take a `Spread` and do not know who works. They know nothing of Ray.
"""
