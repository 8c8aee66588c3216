"""What was promised: claims, predicates, lifecycle, events, receipts, registry. No tensors here."""
