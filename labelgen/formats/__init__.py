"""Label maps for other tools: PNG, COCO, LabelMe, CVAT, YOLO. Imports core, data and sources."""
