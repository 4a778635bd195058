"""The same models in PyTorch, with its own layers: the modules that the tests compare ours with."""

import contextlib
import os
import sys

import torch
import torch._dynamo
from protocol import ROOT, Peer, serve
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(ROOT / "tests" / "models"))
import torch_models

_NOTHING = -1e30

torch._dynamo.config.cache_size_limit = 64  # of all forms and modes; beyond it PyTorch would stop compiling


class Matt(nn.Module):
    """MATT's attention: in training with the query of the bag's genre, else with every genre's."""

    def __init__(self, features, genres):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(genres, features))

    def forward(self, embeddings, member, label_of_clip):
        if self.training:
            scores = (self.queries[label_of_clip] * embeddings).sum(-1)[:, None]
            weights = torch.where(member, scores, _NOTHING).softmax(-1)
            return torch.tanh(weights @ embeddings)  # [row, bag, feature]
        scores = (embeddings @ self.queries.T).mT[:, None]
        weights = torch.where(member[:, :, None], scores, _NOTHING).softmax(-1)  # [row, bag, genre, slot]
        return torch.tanh(weights @ embeddings[:, None])


class Classifier(nn.Module):
    """Encoder, pooling, head; returns log scores [row, bag, genre]."""

    def __init__(self, problem, nn_gru):
        super().__init__()
        options = problem.options
        settings = {k: v for k, v in options["encoder"].items() if k not in ("name", "batch_norm_momentum")}
        self.encoder = torch_models.MODELS[options["encoder"]["name"]](options["clip_shape"], **settings)
        for block in self.encoder.blocks if hasattr(self.encoder, "blocks") else ():
            if hasattr(block, "norm"):  # PyTorch's own: its unbiased moving variance makes no difference here
                block.norm = nn.BatchNorm2d(block.norm.num_features, eps=1e-3, momentum=0.01)
        self.nn_gru = nn_gru
        if nn_gru:
            replace_grus(self.encoder)
        self.matt = Matt(self.encoder.features, options["genres"]) if problem.bags else None
        self.dropout = nn.Dropout(options["head_dropout"])
        self.head = nn.Linear(self.encoder.features, options["genres"])

    def forward(self, clips, member, label_of_clip):
        x = self.encoder(clips).float().unflatten(0, label_of_clip.shape)
        with torch.autocast(clips.device.type, enabled=False):  # ours are in float32, too
            if self.matt is not None:
                x = self.matt(x, member, label_of_clip)
            scores = self.head(self.dropout(x)).log_softmax(-1)
        return scores if self.matt is None or self.training else scores.diagonal(dim1=2, dim2=3)

    def load(self, tree):
        layout = {}
        if "encoder" in tree:
            layout |= {f"encoder.{name}": value for name, value in self.encoder.layout(tree["encoder"]).items()}
        layout |= {"head.weight": tree["head"]["kernel"].T, "head.bias": tree["head"]["bias"]}
        if self.matt is not None:
            layout["matt.queries"] = tree["pooling"]["views"]["queries"]
        state = {name: torch.tensor(value) for name, value in layout.items()}
        missing, unexpected = self.load_state_dict(state, strict=False)
        wrong = [name for name in (*missing, *unexpected) if not name.endswith("num_batches_tracked")]
        if self.nn_gru:  # its own random weights
            wrong = [name for name in wrong if "_l0" not in name and ".from_" not in name]
        if wrong:
            raise ValueError(f"weights that do not fit: {', '.join(wrong)}")


class PlainGRU(nn.GRU):
    """`nn.GRU` in the place of Keras 2's GRU: faster, with other equations; its own random weights."""

    def __init__(self, other):
        super().__init__(other.from_input.in_features, other.units, batch_first=True)

    def forward(self, x):
        return super().forward(x)[0]


def replace_grus(module):
    for name, child in module.named_children():
        if isinstance(child, torch_models.KerasGRU):
            setattr(module, name, PlainGRU(child))
        else:
            replace_grus(child)


def make_optimizer(options, parameters):
    rate, decay = options["learning_rate"], options["weight_decay"]
    more = options["options"]
    match options["name"]:
        case "sgd":
            return torch.optim.SGD(parameters, rate, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, alpha=more["decay"], eps=more["eps"], weight_decay=decay)
    raise ValueError(f"no optimizer {options['name']}")


class TorchPeer(Peer):
    def __init__(self, nn_gru):
        self.nn_gru = nn_gru
        self.threads = torch.get_num_threads()

    def hello(self):
        cuda = torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if cuda:
            about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
            about["devices"] = torch.cuda.get_device_name()
        return about | {"backend": "gpu" if cuda else "cpu"}

    def load(self, problem):
        self.problem, options = problem, problem.options
        self.device = torch.device("cuda" if options["device"] == "gpu" else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA's default
        self.autocast = options["dtype"] == "bfloat16"
        tensors = (problem.clips, problem.member, problem.label_of_clip, problem.label, problem.bag_weight)
        clips, self.member, label_of_clip, label, self.bag_weight = (
            torch.tensor(value, device=self.device) for value in tensors
        )
        self.clips, self.label_of_clip, self.label = clips.flatten(0, 1), label_of_clip.long(), label.long()
        self.models = {}

    def model(self, form):
        """The model and the optimizer of a form, each with the problem's weights."""
        if form not in self.models:
            self.models[form] = self.make(form)
        return self.models[form]

    def make(self, form, dropout=True):
        model = Classifier(self.problem, self.nn_gru).to(self.device)
        model.load(self.problem.weights)
        model = model.to(memory_format=torch.channels_last)
        for module in model.modules():
            if isinstance(module, nn.Dropout) and not dropout:
                module.p = 0.0
        optimizer = make_optimizer(self.problem.options["optimizer"], model.parameters())
        inputs = (self.clips, self.member, self.label_of_clip)

        def scores():
            with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext():
                return model(*inputs)

        def loss():
            losses = functional.nll_loss(scores().flatten(0, 1), self.label.flatten(), reduction="none")
            return losses @ self.bag_weight.flatten() / self.problem.num_bags

        if form.startswith("compile"):
            mode = "reduce-overhead" if "graphs" in form else None
            scores, loss = torch.compile(scores, mode=mode), torch.compile(loss, mode=mode)

        def train_step():
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            optimizer.step()
            return value.detach()

        return model, scores, train_step

    def forms(self, mode):
        if self.device.type == "cuda":
            return ["eager", "compile", "compile, CUDA graphs"]
        return ["eager", "compile"] + (["eager, 1 thread"] if len(self.problem.options["clip_shape"]) == 1 else [])

    def run(self, mode, form, steps):
        model, scores, train_step = self.model(form)
        torch.set_num_threads(1 if form.endswith("1 thread") else self.threads)
        if mode == "train":
            model.train()
            for _ in range(steps):
                train_step()
        else:
            model.eval()
            with torch.inference_mode():
                for _ in range(steps):
                    scores()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def check(self):
        model, scores, train_step = self.make("eager", dropout=False)
        model.eval()
        with torch.inference_mode():
            log_scores = scores().float().cpu().numpy()
        model.train()
        return log_scores, [train_step().item() for _ in range(3)]


if __name__ == "__main__":
    serve(TorchPeer(nn_gru="--nn_gru" in sys.argv))
