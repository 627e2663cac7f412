"""The experiments of the paper: the same data, network and losses, under two ways of judging them.

    python -m benchmarks.paper TABLE --data-dir DIR     1, 2, 3, S1 ... S10, figures or all

One word for each thing, in command lines, result files and published.json:

- tables: "1", "2", "3", "S1" ... "S10";
- data: cocktailparty, adult, mammography, kaggle, synthetic33, synthetic5, cifar-transportation,
  cifar-frog;
- losses: acc-linear, acc-sigmoid, f1-linear, f1-sigmoid, f2-..., f3-..., roc-linear, roc-sigmoid,
  bce, wmw, adversarial, dice, dice-sigmoid, eum, svm-error, svm-f1, svm-roc (losses.py has all);
- metrics: accuracy, f1, auroc, precision, recall; in S1 with the batch size, as in f1@1024; in S4
  also accuracy-maximizers and f1-maximizers, the counts |T_max|.

data.py loads and splits, losses.py names what is trained on, models.py holds the networks of all
seeds as one batch, training.py trains them, protocols.py judges them, tables.py says what stands in
which table, report.py writes Markdown; baselines/ has what the paper compares with, published.json
its figures.
"""
