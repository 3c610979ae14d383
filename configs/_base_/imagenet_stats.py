# RGB statistics of ImageNet, for images that are read as BGR.
_imagenet = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
)
