"""The command `bundle new`."""

from __future__ import annotations

from fire.decorators import SetParseFn


@SetParseFn(
    str,
    *("name", "task", "images", "labels", "labels_csv", "datalist", "label_suffix", "class_names"),
    *("memory", "mixer", "device", "out"),
)
def new(
    name: str,
    task: str,
    images: str | None = None,
    labels: str | None = None,
    labels_csv: str | None = None,
    datalist: str | None = None,
    label_suffix: str | None = None,
    class_names: str | None = None,
    dims: int | None = None,
    memory: str | None = None,
    mixer: str = "softmax",
    device: str | None = None,
    out: str = ".",
    seed: int = 0,
    sample: int = 200,
    leave_out: bool = False,
    overwrite: bool = False,
) -> int:
    """Look at your images and write a bundle that trains on them; nothing of the images is copied or changed.

    What was found, what is wrong and what was chosen is printed, and stands in the bundle's README. Exit code 1, and
    nothing written, where a problem prevents training.

    Args:
        name: of the bundle; the task is added to it where it is not in it.
        task: segmentation, denoising or classification.
        images: the folder of the images; for classification with a sub-folder a class.
        labels: the folder of the label maps, or of the clean images; in the same folder or beside it if left out.
        labels_csv: a table of classes, with a column for the image's name and one for the class.
        datalist: a data list in the Decathlon's form, in place of the above.
        label_suffix: what labels have behind their images' names, where there are several kinds, such as _seg.
        class_names: names of the classes beside the background, with commas between.
        dims: 2 or 3, where images of both lie there.
        memory: what training may take, such as 8GB; the device's own if left out.
        mixer: the network's attention, such as softmax or hyena_nd.
        device: cpu or cuda, what to plan for; the machine's own if left out.
        out: the folder that the bundle goes into.
        seed: of the split and of the training.
        sample: how many images are read whole; headers are read of all.
        leave_out: go on without the cases that have problems.
        overwrite: write the configs of a bundle that is there anew; its weights stay.
    """
    from monai_ext.bundle.new import Source, new_bundle

    source = Source(images, labels, labels_csv, datalist, label_suffix, class_names, dims)
    made = new_bundle(name, task, source, out, memory, mixer, device, seed, sample, leave_out, overwrite)
    print(made.report)
    return 0 if made.root is not None else 1
