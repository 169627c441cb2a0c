"""Every field there is, one comment each. The other configs start from this one and say only what differs.

Any field can be set on the command line: `--config.train.steps=500`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: real models (CLIP ViT-B/16, SAM ViT-H, DINOv2 ViT-L/14) on a folder of photos."""
    config = ConfigDict()

    # ---- what a person sets ----
    config.ontology = ""  # file of words: one class a line, `name: word, word`
    config.weights_dir = "weights"  # folder searched first for every weight file
    config.data_cache = ""  # keeps the rows read of a DATA on s3://, gs:// …; "": ~/.cache/fmbseg; /dev/shm: memory
    config.photos = ConfigDict()
    config.photos.root = ""  # where the photos are
    config.photos.source = "folder"  # layout of the root, see below
    config.photos.splits = ConfigDict()  # split -> {photos: which, masks: which truth, or "" for none}
    #   source            photos                  masks
    #   folder            folder                  folder of PNGs, class index = line of the words
    #   black_and_white   folder                  folder of PNGs, white is "foreground", black "background"
    #   voc, context      list: val, trainaug     folder: SegmentationClass, …Aug, …Context
    #   cityscapes        split: val              labelIds or labelTrainIds
    #   ade20k            split: validation       annotations
    #   camvid            split: test             folder: testannot
    #   coco              folder: val2017         instances, stuff, instances+stuff
    #   coco_stuff        folder: val2017         folder of pixel maps: stuffthingmaps
    #   coco_panoptic     folder: val2017         panoptic_val2017
    #   tfds:NAME         split: validation       segmentation feature: annotation
    config.photos.ignore_index = 255  # folder: mask value that means "not annotated"
    config.photos.max_pixels = 50_000_000  # larger photos are listed in failures.jsonl, not decoded

    # ---- encode: word-free, needs the models ----
    config.device = "auto"  # auto (cuda, else mps, else cpu), cpu, mps, cuda, cuda:1 …
    config.dtype = "auto"  # of the three encoders: float32, bfloat16, float16; auto: 16 bits; cpu: where faster
    config.encode = ConfigDict()
    config.encode.photos_per_shard = 64
    config.encode.feature_dtype = "bfloat16"  # stored patch features: bfloat16, float16, float32

    config.clip = ConfigDict()
    config.clip.name = "ViT-B-16"  # open_clip architecture, or a model config file (*.json) in weights_dir
    config.clip.pretrained = "openai"  # open_clip tag, or a weight file in weights_dir
    config.clip.sha256 = ""  # checked when given
    config.clip.short_side_px = 448  # the photo is resized to this before dense windows are cut
    config.clip.window_px = 224  # dense windows: side …
    config.clip.stride_px = 112  # … and stride
    config.clip.crop_scales = (1.0, 0.5, 0.33)  # presence crops: side as a share of the photo's short side
    config.clip.variants = ("maskclip", "naclip", "proxyclip")  # dense variants kept in the evidence
    config.clip.batch_size = 0  # crops or windows a forward pass; 0: as many as the device's memory allows

    config.sam = ConfigDict()
    config.sam.name = "vit_h"  # vit_h, vit_l, vit_b, mobile_sam, sam2.1_hiera_tiny, …_small, …_base_plus, …_large, …
    # … or a model config file (*.json) in weights_dir
    config.sam.weights = "sam_vit_h_4b8939.pth"
    config.sam.sha256 = ""
    config.sam.points_per_side = 32  # grid of point prompts over the photo
    config.sam.pred_iou_threshold = 0.88  # automatic masks: predicted IoU at least …
    config.sam.stability_threshold = 0.95  # … stability score at least …
    config.sam.nms_threshold = 0.7  # … and box IoU with a better mask at most
    config.sam.batch_size = 0  # points a decoder pass; 0: as many as the device's memory allows

    config.encoder = ConfigDict()
    config.encoder.name = "vit_large_patch14_dinov2.lvd142m"  # any timm name, or a model config file (*.json) …
    # … that gives patch tokens or a feature map; "clip": config.clip's own trunk; "sam": config.sam's image encoder
    config.encoder.weights = ""  # weight file in weights_dir; empty: timm's own download; not read for clip and sam
    config.encoder.sha256 = ""
    config.encoder.layers = (-1,)  # layers whose output is taken, after the final norm; -1: the last, -2: before it …
    config.encoder.join = "concatenate"  # what several layers become: concatenate, mean
    config.encoder.size_px = 518  # the photo is fitted into this width, px …
    config.encoder.height_px = 0  # … and this height; 0: size_px too. The patch grid is these, divided by the patch
    config.encoder.window_px = 0  # features by overlapping windows of this side, averaged; 0: the photo in one pass
    config.encoder.stride_px = 0  # at most this far apart; 0 where there are no windows

    # ---- label: words, cheap ----
    config.labels = ConfigDict()
    config.labels.name = "default"  # labels/NAME in DATA: one folder for one list of words
    config.labels.splits = ("train",)  # splits that get free labels; quality reads them too
    config.labels.text_embeddings = ""  # .npy [K, E], rows in the order of the words, instead of the text tower
    config.labels.templates = ("a photo of a {}.", "a photo of the {}.", "there is a {} in the scene.")
    # … or ("imagenet",), on the command line imagenet: the 80 of CLIP's authors, which most published figures average
    config.labels.variant = "proxyclip"  # dense variant that the labels use; "naclip+proxyclip": the mean of two
    config.labels.calibration_photos = 256  # photos that tell how strongly each class fires anyway; 0: no calibration

    config.presence = ConfigDict()
    config.presence.temperature = 0.02  # softmax temperature of crop-word cosines (CLIP's own 1/100 … 1/30)
    config.presence.dense_temperature = 0.02  # the same for patch-word cosines
    config.presence.threshold = 0.3  # a class is present when its score reaches this
    config.presence.gate = 1.0  # weight of the window gate added to the patch logits; 0: none

    config.points = ConfigDict()
    config.points.per_class = 8  # point prompts a present class (stage 1.1)
    config.masks = ConfigDict()
    config.masks.min_confidence = 0.5  # probability the winning class must have for a mask to be named (stage 1.2)
    config.merge = ConfigDict()
    config.merge.min_confidence = 0.5  # pixels below are ignore in the final labels

    # ---- train: JAX ----
    config.distributed = "off"  # off; auto: as TPU pods, Slurm or MPI say; or ADDRESS:PORT,COUNT,ID of this process
    config.distributed_start_s = 300  # seconds to wait until all processes are there
    config.distributed_silent_s = 60  # seconds after which a process that says nothing is dead, and the others end
    config.compile_cache = "compiled"  # folder of compiled functions, below RUN; or an absolute one; "": none is kept
    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices on the 'data' axis; -1: all that 'model' leaves
    config.mesh.model = 1
    config.head = ConfigDict()
    config.head.blocks = 0  # pre-norm transformer blocks over a view's patches (the paper: 1)
    config.head.heads = 8  # attention heads of a block
    config.head.hidden = 0  # width of the MLP's hidden layer; 0: one linear map
    config.head.dtype = "float32"  # compute type; parameters are always float32
    config.train = ConfigDict()
    config.train.split = "train"
    config.train.photos = 0  # as many photos of it, drawn by the seed, more of them contain fewer; 0: all
    config.train.targets = "labels"  # labels; `truth` trains the oracle, for comparison only
    config.train.loss = "prototype_ce"  # prototype_ce, t_supcon
    config.train.soft_targets = True  # class shares within a patch; False: its majority class
    config.train.class_balance = 0.5  # class weight = frequency ** -class_balance; 0: none
    config.train.temperature = 0.04
    config.train.learn_temperature = False
    config.train.supcon_samples = 0  # t_supcon: patches in the global contrast set; 0: 1,024, or 4 a photo if more
    config.train.supcon_prototype_weight = 1.0  # t_supcon: weight of the prototype among the positives
    config.train.steps = 2000
    config.train.batch_size = 32  # photos, over all devices
    config.train.patches_per_photo = 128  # patches of a photo in a step's loss, drawn anew each step; 0: all
    config.train.seed = 0
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 100
    config.train.weight_decay = 0.01
    config.train.clip_norm = 1.0
    config.train.virtual_shards = 0  # rows are spread over these; batch_size is a multiple; 0: half of it
    config.train.resident_share = 0.5  # a split that takes up to this share of device memory stays there; 0: none does
    config.train.holdout = 0.05  # share of the photos whose free labels choose the best checkpoint
    config.train.log_every = 50
    config.train.save_every = 200  # also evaluates the held-out loss

    # ---- evaluate and predict ----
    config.eval = ConfigDict()
    config.eval.splits = ("val",)
    config.eval.ontologies = ConfigDict()  # split -> other words of the same classes (synonyms)
    config.eval.truth = ConfigDict()  # class of the source's truth -> class of the words or "ignore"; "*": all others
    config.eval.background_threshold = 0.0  # above 0: pixels whose best class is less probable are "background"
    config.eval.groups = ConfigDict()  # group -> class names whose mean IoU is reported, e.g. stuff and things
    config.eval.batch_size = 8
    config.eval.refine_min_iou = 0.8  # masks below this predicted IoU do not vote in `refined`
    config.eval.sharpen = False  # edges drawn by the photo's colours (PAMR): a row of evaluate, and what predict writes
    return config
