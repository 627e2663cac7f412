"""What the paper compares with, each from its own publication.

Losses of networks take outputs and labels in {0, 1} of shape (N, S), one column a seed, and return
(S,): the loss of each seed, so that the gradient of their sum trains all. Outputs called p are
probabilities, z logits, f the potentials of a game, which are raw outputs too. Methods with a
solver of their own have ``fit(X_train, y_train, X_validation, y_validation, seed, ...)`` on arrays,
which returns ``predict(X) -> scores``.
"""
