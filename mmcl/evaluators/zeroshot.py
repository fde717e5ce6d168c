"""Classify items by prompts that name the classes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Example
from mmcl.evaluators.metrics import classification_ranks, mean_per_class


@EVALUATORS.register("zeroshot")
class ZeroShot:
    """Zero-shot classification by an ensemble of prompts.

    Protocol: each class's name is put into every template; the mean of the prompts' unit vectors, made a unit vector
    again, stands for the class; an item belongs to the class with the largest cosine. Ties count against the model.
    Headline: ``acc1``.

    Args:
        modality: of the items.
        classes: label in the data -> the name to prompt with; labels that do not occur may be listed too.
        templates: prompts with ``{c}`` where the class's name goes.
        label: name of the data's field that holds the label.
        prompts: modality of the prompts.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section
        3.1.4. https://arxiv.org/abs/2103.00020
    """

    headline = "acc1"

    def __init__(
        self,
        modality: str,
        classes: dict[str, str],
        templates: list[str],
        label: str = "label",
        prompts: str = "text",
    ) -> None:
        if not classes or not templates:
            raise MmclError("a zero-shot task needs classes and templates.")
        for template in templates:
            if "{c}" not in template:
                raise MmclError(f"template {template!r} has no {{c}} where the class's name goes.")
        self.modality, self.classes, self.templates = modality, classes, templates
        self.label, self.prompts = label, prompts

    def modalities(self) -> list[str]:
        """What must be embedded."""
        return [self.modality]

    def fields(self) -> list[str]:
        """Labels that the data must bring."""
        return [self.label]

    def prompted(self) -> list[str]:
        """What prompts are made of."""
        return [self.prompts]

    def metrics(self) -> dict[str, bool]:
        """Shares of what is right, of which larger is better."""
        names = ["acc1", *(["acc5"] if len(self.classes) > 5 else []), "mean_per_class_recall"]
        return dict.fromkeys(names, True)

    def measure(self, data: Embedded, embedder: Embedder) -> dict[str, float]:
        """``acc1``, ``acc5`` where there are more than five classes, ``mean_per_class_recall``, and ``n``."""
        numbers = {label: i for i, label in enumerate(self.classes)}
        said = data.fields[self.label]
        unknown = sorted(set(said) - set(numbers))
        if unknown:
            raise MmclError(f"labels of the data that are not among the classes: {', '.join(unknown)}.")
        labels = torch.tensor([numbers[label] for label in said])
        ranks = classification_ranks(self._scores(data, embedder), labels)
        metrics = {"acc1": (ranks <= 1).double().mean().item()}
        if len(self.classes) > 5:
            metrics["acc5"] = (ranks <= 5).double().mean().item()
        return metrics | {"mean_per_class_recall": mean_per_class((ranks <= 1).float(), labels), "n": len(said)}

    def examples(self, data: Embedded, embedder: Embedder, count: int) -> list[Example]:
        """The three best classes of a few items."""
        names = list(self.classes)
        chosen = torch.linspace(0, len(data.keys) - 1, min(count, len(data.keys))).round().long()
        best = self._scores(data, embedder)[chosen].topk(min(3, len(names)), dim=1).indices
        labels = data.fields[self.label]
        return [
            Example(data.keys[i], self.modality, labels[i], [names[j] for j in found], "labels")
            for i, found in zip(chosen.tolist(), best.tolist(), strict=True)
        ]

    def _scores(self, data: Embedded, embedder: Embedder) -> Float[Tensor, "items classes"]:
        names = list(self.classes.values())
        prompts = [template.replace("{c}", name) for name in names for template in self.templates]
        vectors = embedder.embed(self.prompts, prompts).float()
        classes = F.normalize(vectors.view(len(names), len(self.templates), -1).mean(1), dim=-1)
        return data.vectors[self.modality].float() @ classes.T
