"""The experiments of the paper: the same data, network and losses, under two ways of judging them.

    python -m benchmarks.paper TABLE --data-dir DIR     1, 2, 3, S1 ... S10, figure_S4 or all

One word for each thing, in command lines, result files and published.json:

- tables: "1", "2", "3", "S1" ... "S10", and "figure_S4", which trains too;
- data: cocktailparty, adult, mammography, kaggle, synthetic_33, synthetic_5,
  cifar10_transportation, cifar10_frog;
- losses: accuracy_linear, accuracy_sigmoid, f1_..., f2_..., f3_..., auroc_..., auroc_wmw,
  f1_adversarial, bce, dice, dice_sigmoid, eum, svm_error, svm_f1, svm_auroc; losses.py has all;
- metrics: accuracy, f1, auroc, precision, recall; in S1 with the batch size, as in f1@1024; in S4
  also f1_threshold and f1_maximizers, the plug-in threshold and the count |T_max|.

data.py loads and splits, losses.py names what is trained on, models.py holds the networks of all
seeds as one batch, training.py trains them, protocols.py judges them, run.py keeps what has been
found (with the curves and reliability that figures.py draws), counts.py has what needs no training
to the end, tables.py says what stands in which table, report.py and page.py write Markdown;
baselines/ has what the paper compares with, published.json its figures.
"""
