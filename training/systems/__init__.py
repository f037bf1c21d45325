"""Training and measuring the two other systems, M²UNet and JCS.

Cache, loop, run folder, schedules and bootstrap are those of the main model.
"""
