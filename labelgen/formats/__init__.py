"""Label maps in the files of other tools: PNG, COCO, LabelMe, CVAT, Ultralytics YOLO. Array work, no model."""
