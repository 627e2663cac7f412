"""A Lightning module that trains on F1 and takes its threshold from the validation data."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

import softcm


class Classifier(pl.LightningModule):
    def __init__(self, features):
        super().__init__()
        layers = torch.nn.Linear(features, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
        self.model = torch.nn.Sequential(*layers)
        self.loss_fn = softcm.F1Loss(from_logits=True, membership="gated", ce_weight=0.3)
        # A buffer, so that it is saved with the weights.
        self.register_buffer("threshold", torch.tensor(0.5, dtype=torch.float64))
        self.losses, self.of_validation = [], []

    def forward(self, features):
        return self.model(features)

    def training_step(self, batch, _):
        features, labels = batch
        loss = self.loss_fn(self(features), labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.losses.append(self.trainer.callback_metrics["loss"].item())

    def validation_step(self, batch, _):
        features, labels = batch
        self.of_validation.append((self(features), labels))

    def on_validation_epoch_end(self):
        logits, labels = (torch.cat(parts) for parts in zip(*self.of_validation, strict=True))
        self.of_validation.clear()
        best = softcm.tune_threshold(logits, labels, metric="f1", from_logits=True)
        self.threshold.copy_(best.threshold)
        self.log("validation_f1", best.score.float())

    def predict_step(self, batch, _):
        return self(batch[0]).sigmoid() >= self.threshold

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(x, y, **options):
    return DataLoader(TensorDataset(x, y), batch_size=128, **options)


pl.seed_everything(0, verbose=False)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target == 8)
x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)
x_train, x_validation, y_train, y_validation = train_test_split(x, y, stratify=y, random_state=0)

model = Classifier(x.shape[1])
trainer = pl.Trainer(
    max_epochs=30,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
trainer.fit(model, loader(x_train, y_train, shuffle=True), loader(x_validation, y_validation))
predictions = torch.cat(trainer.predict(model, loader(x_test, y_test)))
f1 = softcm.metrics.f1(softcm.confusion_matrix(predictions.float(), y_test)).item()
print(f"loss {model.losses[0]:.3f} -> {model.losses[-1]:.3f}")
print(f"F1 on test data {f1:.3f} at threshold {model.threshold:.3f}")
