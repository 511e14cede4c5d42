"""Labelled datasets as other tools write them: COCO, YOLO, Pascal VOC and plain folders of images."""
