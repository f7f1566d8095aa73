"""Recurrent networks, graphs, recommenders, experts, and torch's own attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.build import Builder, Case


def transformer_encoder(full: bool) -> Case:
    """Torch's `TransformerEncoder`, normalised after each addition, with ReLU."""
    width, heads, layers = (512, 8, 6) if full else (48, 4, 2)
    return _encoder(width, heads, layers, first=False)


def transformer_encoder_prenorm(full: bool) -> Case:
    """Torch's `TransformerEncoder` with normalisation first and GELU."""
    width, heads, layers = (512, 8, 6) if full else (48, 4, 2)
    return _encoder(width, heads, layers, first=True)


def _encoder(width: int, heads: int, layers: int, *, first: bool) -> Case:
    layer = nn.TransformerEncoderLayer(
        width, heads, width * 2, 0.0, "gelu" if first else "relu", batch_first=True, norm_first=first
    )
    network = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
    for weight in network.parameters():  # the layers are copies, and equal weights would be stored once
        if weight.ndim > 1:
            nn.init.xavier_uniform_(weight)
    axes = {"input": {0: "batch", 1: "sequence"}}
    return Case(network, {"input": torch.randn(2, 10, width)}, axes, traced={"input": {0: "batch"}})


class Cross(nn.Module):
    """Attention from queries to a context of another width, and back into the stream."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width * 2), nn.SiLU(), nn.Linear(width * 2, 10))

    def forward(self, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and the attention's averaged weights."""
        found, weights = self.attention(queries, context, context)
        return self.head(self.norm(queries + found)), weights


def cross_attention(full: bool) -> Case:
    """Torch's `MultiheadAttention` with keys and values from elsewhere."""
    network = Cross(768, 512, 12) if full else Cross(48, 32, 4)
    width, context = (768, 512) if full else (48, 32)
    inputs = {"queries": torch.randn(2, 6, width), "context": torch.randn(2, 9, context)}
    axes = {"queries": {0: "batch", 1: "sequence"}, "context": {0: "batch", 1: "keys"}}
    return Case(network, inputs, axes, ("output", "weights"))


class Recurrent(nn.Module):
    """Words through a recurrent network, their mean and last state to a class."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], words: int, width: int, layers: int, *, both: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.body = kind(width, width, layers, batch_first=True, bidirectional=both)
        self.head = nn.Sequential(nn.Linear((2 if both else 1) * width, width), nn.Tanh(), nn.Linear(width, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of classes."""
        found = self.body(self.embed(tokens))[0]
        return self.head(found.mean(1) + found[:, -1])  # type: ignore[no-any-return]


def _recurrent(kind: type[nn.LSTM | nn.GRU], full: bool, *, both: bool) -> Case:
    words, width = (10_000, 256) if full else (100, 32)
    network = Recurrent(kind, words, width, 2, both=both)
    return Case(network, {"tokens": torch.randint(0, words, (2, 9))}, {"tokens": {0: "batch", 1: "sequence"}})


def lstm_classifier(full: bool) -> Case:
    """A stacked LSTM over words."""
    return _recurrent(nn.LSTM, full, both=False)


def gru_classifier(full: bool) -> Case:
    """A stacked GRU in both directions."""
    return _recurrent(nn.GRU, full, both=True)


class Seq2Seq(nn.Module):
    """An LSTM reads in both directions, another writes and attends to what was read."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.read, self.written = nn.Embedding(words, width), nn.Embedding(words, width)
        self.encoder = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * width, width)
        self.decoder = nn.LSTM(width, width, batch_first=True)
        self.query, self.key = nn.Linear(width, width), nn.Linear(2 * width, width)
        self.energy = nn.Linear(width, 1, bias=False)
        self.join, self.head = nn.Linear(3 * width, width), nn.Linear(width, words)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores of the next words."""
        seen, (state, cell) = self.encoder(self.read(source))
        start = self.bridge(torch.cat([state[0], state[1]], -1)).tanh()[None]
        keep = self.bridge(torch.cat([cell[0], cell[1]], -1))[None]
        said, _ = self.decoder(self.written(target), (start, keep))
        mixed = (self.query(said)[:, :, None] + self.key(seen)[:, None]).tanh()
        weights = self.energy(mixed).squeeze(-1).softmax(-1)
        return self.head(self.join(torch.cat([said, weights @ seen], -1)).tanh())  # type: ignore[no-any-return]


def seq2seq(full: bool) -> Case:
    """A translator of LSTMs with additive attention."""
    words, width = (10_000, 512) if full else (80, 32)
    inputs = {"source": torch.randint(0, words, (2, 8)), "target": torch.randint(0, words, (2, 6))}
    axes = {"source": {0: "batch", 1: "read"}, "target": {0: "batch", 1: "written"}}
    return Case(Seq2Seq(words, width), inputs, axes)


class MessagePassing(nn.Module):
    """Nodes send messages along edges; each adds up what it receives."""

    def __init__(self, inputs: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.message = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(layers)
        )
        self.update = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.norm = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """A class for each node; ``edges`` has a row of senders and one of receivers."""
        x = self.enter(nodes)
        sender, receiver = edges[0], edges[1]
        for message, update, norm in zip(self.message, self.update, self.norm, strict=True):
            sent = message(torch.cat([x[sender], x[receiver]], -1))
            received = torch.zeros_like(x).scatter_add(0, receiver[:, None].expand_as(sent), sent)
            x = x + functional.relu(norm(update(torch.cat([x, received], -1))))
        return self.head(x)  # type: ignore[no-any-return]


def gnn_messages(full: bool) -> Case:
    """A graph network that scatters messages; all its graphs are one graph, so nodes are the batch."""
    network = MessagePassing(128, 256, 4, 40) if full else MessagePassing(12, 32, 2, 5)
    count, width = 12, 128 if full else 12
    inputs = {"nodes": torch.randn(count, width), "edges": torch.randint(0, count, (2, 30))}
    return Case(network, inputs, {"nodes": {0: "nodes"}, "edges": {1: "edges"}})


class Convolve(nn.Module):
    """Graph convolution and attention over a dense adjacency."""

    def __init__(self, inputs: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.source = nn.Parameter(torch.randn(heads, 1, width // heads))
        self.target = nn.Parameter(torch.randn(heads, 1, width // heads))
        self.head = nn.Linear(width, classes)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """A class for each graph; ``adjacency`` is one where two nodes are joined."""
        degree = adjacency.abs().sum(-1, keepdim=True) + 1
        x = functional.relu((adjacency @ self.first(nodes) + self.first(nodes)) / degree)
        parts = self.second(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        from_here, to_here = (parts * self.source).sum(-1), (parts * self.target).sum(-1)
        scores = functional.leaky_relu(from_here[..., :, None] + to_here[..., None, :], 0.2) - 1e4 * (
            1 - adjacency[:, None]
        )
        mixed = (scores.softmax(-1) @ parts).transpose(1, 2).flatten(2)
        return self.head((x + mixed).amax(1))  # type: ignore[no-any-return]


def gnn_dense(full: bool) -> Case:
    """A graph network over dense adjacencies: a convolution, and attention as in GAT."""
    width = 128 if full else 12
    network = Convolve(width, 256, 8, 40) if full else Convolve(width, 48, 4, 5)
    inputs = {"nodes": torch.randn(2, 7, width), "adjacency": torch.rand(2, 7, 7).round()}
    return Case(network, inputs, {"nodes": {0: "batch", 1: "nodes"}, "adjacency": {0: "batch", 1: "nodes", 2: "nodes"}})


class Dlrm(nn.Module):
    """DLRM: embeddings and a dense feature, their dot products, and linear layers below and above."""

    def __init__(self, sizes: tuple[int, ...], dense: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.bottom = nn.Sequential(nn.Linear(dense, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())
        count = len(sizes) + 1
        pairs = count * (count - 1) // 2
        layers = [nn.Linear(width + pairs, hidden), nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU()]
        self.top = nn.Sequential(*layers, nn.Linear(hidden // 2, 1))
        rows, columns = torch.tril_indices(count, count, -1)
        self.register_buffer("places", rows * count + columns)

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        """The probability of a click."""
        below = self.bottom(dense)
        found = [below, *(table(categories[:, i]) for i, table in enumerate(self.tables))]
        stacked = torch.stack(found, 1)
        products = (stacked @ stacked.transpose(1, 2)).flatten(1)[:, self.places]  # type: ignore[index]
        return torch.sigmoid(self.top(torch.cat([below, products], 1)))


def recommender(full: bool) -> Case:
    """DLRM with embedding tables and crossed features."""
    sizes = (5000, 10_000, 800, 300, 100, 50) if full else (40, 30, 20)
    network = Dlrm(sizes, 13, 64, 512) if full else Dlrm(sizes, 13, 16, 48)
    inputs = {"dense": torch.randn(2, 13), "categories": torch.randint(0, min(sizes), (2, len(sizes)))}
    return Case(network, inputs, {"dense": {0: "batch"}, "categories": {0: "batch"}})


class WideAndDeep(nn.Module):
    """A factorisation machine beside linear layers over the same embeddings."""

    def __init__(self, sizes: tuple[int, ...], width: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0))
        self.deep, self.wide = nn.Embedding(sum(sizes), width), nn.Embedding(sum(sizes), 1)
        nn.init.normal_(self.deep.weight, std=0.1)  # else the crossed sum saturates the sigmoid
        layers = [nn.Linear(len(sizes) * width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, hidden)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, categories: Tensor) -> Tensor:
        """The probability of a click."""
        ids = categories + self.offsets  # type: ignore[operator]
        vectors = self.deep(ids)
        crossed = 0.5 * (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.body(vectors.flatten(1)) + crossed + self.wide(ids).sum(1))


def deepfm(full: bool) -> Case:
    """DeepFM: one table for all features, crossed in pairs and read by linear layers."""
    sizes = (5000, 10_000, 800, 300, 100, 50) if full else (40, 30, 20)
    network = WideAndDeep(sizes, 64, 512) if full else WideAndDeep(sizes, 16, 48)
    return Case(network, {"categories": torch.randint(0, min(sizes), (2, len(sizes)))}, {"categories": {0: "batch"}})


class Experts(nn.Module):
    """A gate weighs feed-forwards; tokens go to each by an index, or all go to all."""

    def __init__(self, width: int, hidden: int, count: int, *, routed: bool) -> None:
        super().__init__()
        self.routed, self.gate, self.norm = routed, nn.Linear(width, count, bias=False), nn.LayerNorm(width)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens."""
        rows = self.norm(x).flatten(0, 1)
        weights, chosen = self.gate(rows).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        found = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            share = torch.where(chosen == number, weights, 0.0).sum(-1, keepdim=True)
            if self.routed:
                places = (chosen == number).any(-1).nonzero().squeeze(1)
                found = found.index_add(0, places, expert(rows[places]) * share[places])
            else:
                found = found + expert(rows) * share
        return x + found.view(x.shape)


def _experts(full: bool, *, routed: bool) -> Case:
    width, hidden, count = (512, 2048, 8) if full else (32, 48, 4)
    body = [Experts(width, hidden, count, routed=routed) for _ in range(2)]
    network = nn.Sequential(nn.Linear(width, width), *body, nn.Linear(width, 10))
    return Case(network, {"input": torch.randn(2, 9, width)}, {"input": {0: "batch", 1: "sequence"}})


def moe_dense(full: bool) -> Case:
    """Experts that all see all tokens, and shares of which most are zero."""
    return _experts(full, routed=False)


def moe_routed(full: bool) -> Case:
    """Experts that see only the tokens sent to them."""
    return _experts(full, routed=True)


NETWORKS: dict[str, Builder] = {
    "transformer_encoder": transformer_encoder,
    "transformer_encoder_prenorm": transformer_encoder_prenorm,
    "cross_attention": cross_attention,
    "lstm_classifier": lstm_classifier,
    "gru_classifier": gru_classifier,
    "seq2seq": seq2seq,
    "gnn_messages": gnn_messages,
    "gnn_dense": gnn_dense,
    "recommender": recommender,
    "deepfm": deepfm,
    "moe_dense": moe_dense,
    "moe_routed": moe_routed,
}
