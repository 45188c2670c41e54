from models import Scheduled, loader, quiet_trainer


def test_total_steps_follow_from_epochs():
    """Sixteen batches, two epochs."""
    module = Scheduled()

    quiet_trainer(max_epochs=2).fit(module, loader())

    assert module.lr_schedulers().total_steps == 32
