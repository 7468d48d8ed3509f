from pentamask import model_zoo
from pentamask.engine.trainer import Trainer


def test_trains_with_the_augmentation_of_ssd_and_is_evaluated(shapes, tmp_path):
    """The recipe for the shapes data, and the released models' data pipeline, on a smaller image."""
    cfg = model_zoo.get_config("shapes/YOLACT_R_50_thin.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.YOLACT.IMAGE_SIZE = 64
    cfg.INPUT.SSD_AUGMENTATION, cfg.INPUT.MIN_SIZE_TEST = True, 0
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR = 2, 6, str(tmp_path)
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.train()
    assert {"B", "C", "M", "S", "total_loss", "bbox/AP", "segm/AP"} <= set(trainer.storage.latest())
