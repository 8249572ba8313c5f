"""What passes cost. Counted per sample, a backward as two forwards."""

FORWARD, BACKWARD = 1, 2
ROW = FORWARD + BACKWARD  # a trained sample
