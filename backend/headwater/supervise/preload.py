"""What the forkserver imports before it forks anything: all that the roles need, in pages that they share."""

import gc

# What is here for good is not looked at again by any child's collector: looking would copy its pages.
gc.collect()
gc.freeze()
