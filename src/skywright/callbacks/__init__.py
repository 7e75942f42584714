"""Documents in, derived documents out; and the journal that keeps them all."""
