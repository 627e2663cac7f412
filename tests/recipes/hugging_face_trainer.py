"""Hugging Face's Trainer with an F1 loss through its hook, for a tiny BERT made on the spot.

The texts are random; one in five holds the token that makes it positive.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

import softcm

TOKEN, WORDS, LENGTH = 7, 50, 8


class Texts(Dataset):
    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.rand(size, generator=generator) < 0.2
        self.tokens = torch.randint(TOKEN + 1, WORDS, (size, LENGTH), generator=generator)
        at = torch.randint(0, LENGTH, (size,), generator=generator)
        self.tokens[self.labels, at[self.labels]] = TOKEN

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "labels": self.labels[i].float()}


def f1_loss(outputs, labels, num_items_in_batch=None):
    """What the Trainer calls. It does not divide what this returns by the steps of accumulation:

    with ``gradient_accumulation_steps`` above 1, do that here; it is then the mean over
    micro-batches, which is not the loss of their union.
    """
    return softcm.f1_loss(
        outputs.logits, labels, from_logits=True, membership="gated", ce_weight=0.3
    )


def f1_at_half(prediction):
    logits, labels = map(torch.from_numpy, (prediction.predictions, prediction.label_ids))
    hard = softcm.confusion_matrix(logits, labels, from_logits=True)
    return {"f1": softcm.metrics.f1(hard).item()}


set_seed(0)
# One output: a logit. With two, softcm takes the labels as indices of two classes.
config = BertConfig(
    vocab_size=WORDS,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=LENGTH,
    num_labels=1,
)
train, validation, test = Texts(768, seed=0), Texts(256, seed=1), Texts(256, seed=2)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=4,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=512,
        learning_rate=5e-3,
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=train,
        eval_dataset=validation,
        compute_loss_func=f1_loss,
        compute_metrics=f1_at_half,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    of_validation, of_test = trainer.predict(validation), trainer.predict(test)

logits = torch.from_numpy(of_validation.predictions)
best = softcm.tune_threshold(logits, validation.labels, from_logits=True)
logits = torch.from_numpy(of_test.predictions)
hard = softcm.confusion_matrix(logits, test.labels, threshold=best.threshold, from_logits=True)
f1 = softcm.metrics.f1(hard).item()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print(f"F1 on test data {f1:.3f} at threshold {best.threshold:.3f}")
