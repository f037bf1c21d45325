"""What several tests share: real peer programs on free ports, and synthetic CT series."""
