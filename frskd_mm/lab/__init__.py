"""What measures and shows: benchmark, comparison, demo, trials and pictures.

The top room: it may use all others, and none of them imports it.
"""
