# images.py -- the pictures of the benchmarks for PyTorch: CIFAR-10 from memory, ImageNet samples decoded anew each time.
#
# Both are read from the folders that qattrain reads. A thread or process prepares batches ahead, as qattrain's loader does.
import os
import queue
import threading

import torch

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def decoded_folder(folder, cache):
    """u8 [n, h, w, 3] and labels of folder/<class>/*; kept in the file `cache`, since all peers read the same."""
    if os.path.exists(cache):
        return torch.load(cache)
    import numpy
    from PIL import Image
    pictures, labels = [], []
    for label, name in enumerate(sorted(os.listdir(folder))):
        for file in sorted(os.listdir(os.path.join(folder, name))):
            pictures.append(numpy.asarray(Image.open(os.path.join(folder, name, file)).convert("RGB")))
            labels.append(label)
    data = torch.from_numpy(numpy.stack(pictures)), torch.tensor(labels)
    torch.save(data, cache + f".{os.getpid()}")
    os.replace(cache + f".{os.getpid()}", cache)
    return data


def scaled(images, mean, std):
    """u8 [n, h, w, 3] -> normalized f32 [n, 3, h, w], channels last in memory."""
    x = images.permute(0, 3, 1, 2).to(torch.float32)
    mean = torch.tensor(mean, device=x.device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor(std, device=x.device).mul_(255).view(1, 3, 1, 1)
    return x.sub_(mean).div_(std)


def cropped_and_flipped(images, padding=4):
    n, h, w, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    rows = torch.randint(0, 2 * padding + 1, (n, 1)) + torch.arange(h)
    columns = torch.randint(0, 2 * padding + 1, (n, 1)) + torch.arange(w)
    flip = torch.rand(n, 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[torch.arange(n).view(n, 1, 1), rows.view(n, h, 1), columns.view(n, 1, w)]


def cifar_batches(root, cache, batch):
    """Endless shuffled training batches."""
    images, labels = decoded_folder(os.path.join(root, "cifar10-jpeg", "train"), cache)
    ready = queue.Queue(2)

    def work():
        while True:
            order = torch.randperm(len(labels))
            for i in range(0, len(order) - batch + 1, batch):
                at = order[i:i + batch]
                ready.put((scaled(cropped_and_flipped(images[at]), CIFAR_MEAN, CIFAR_STD), labels[at]))

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield ready.get()


def folder_batches(root, batch, workers=1):
    """Endless shuffled batches of root/train/<class>/*: random resized crop to 224, flip."""
    from torchvision import datasets, transforms
    steps = transforms.Compose([
        transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    data = datasets.ImageFolder(os.path.join(root, "train"), steps)
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers,
                                         persistent_workers=workers > 0, prefetch_factor=2 if workers else None)
    while True:
        for x, labels in loader:
            yield x.contiguous(memory_format=torch.channels_last), labels


def resident_batches(root, batch, device):
    """Endless shuffled batches of root/train/<class>/* held on the device: mirrored and normalized there, nothing is sent."""
    images, labels = (t.to(device) for t in decoded_folder(os.path.join(root, "train"), os.path.join(root, "train.pt")))
    while True:
        order = torch.randperm(len(labels), device=device)
        for i in range(0, len(order) - batch + 1, batch):
            at = order[i:i + batch]
            x = images[at]
            x = torch.where((torch.rand(batch, device=device) < 0.5).view(-1, 1, 1, 1), x.flip(2), x)
            yield scaled(x, IMAGENET_MEAN, IMAGENET_STD), labels[at]


def batches(net, roots, batch):
    """roots: {"cifar": ..., "cache": ..., "imagenet": ...}, or {"resident": ..., "device": ...}"""
    if "resident" in roots:
        return resident_batches(roots["resident"], batch, roots["device"])
    if net.startswith("cifar"):
        return cifar_batches(roots["cifar"], roots["cache"], batch)
    return folder_batches(roots["imagenet"], batch)


def classes(net, roots=None):
    if roots and "resident" in roots:
        return len(os.listdir(os.path.join(roots["resident"], "train")))
    return 10 if net.startswith("cifar") else 16
