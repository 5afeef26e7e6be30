"""Networks: (x_t, label, condition, past, mask) -> (prediction, State)."""
