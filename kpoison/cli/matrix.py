"""`kpoison matrix`."""

import dataclasses
import time
from pathlib import Path
from typing import Literal

from kpoison.cli.outputs import check_output
from kpoison.problems import AttackName, DefenceName, MatrixImages, MatrixKernelName

__all__ = ["Matrix"]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Run every attack against every defence in the kernel regime, over seeds: measured beside predicted.

    Predictors are refitted by brute force to what a defence leaves; predictions come from the clean predictor and the
    laws.  A run that is killed is continued by the same command.  Exit status 0, or 2 for wrong arguments.
    """

    data: MatrixImages = "digits"
    """Images; digits are embedded, the others are read from --data-dir."""

    data_dir: str | None = None
    """Folder with the official files, or with a folder `mnist` or `cifar-10-batches-bin` of them; by default
    $KPOISON_DATA."""

    classes: tuple[int, ...] = (2,)
    """2 (the digits 3 and 8, of CIFAR cats and dogs), 10, or two or more labels of the data.  The last class is the one
    that attacks with a target want."""

    kernel: MatrixKernelName = "rbf"
    """A length scale is the median distance between clean training images."""

    attacks: tuple[AttackName | Literal["all"], ...] = ("all",)
    """Attacks by name, or all."""

    defences: tuple[DefenceName | Literal["all"], ...] = ("all",)
    """Defences by name, or all; none, which is the attack without a defence, is always run."""

    seeds: int = 5
    """How many draws of images, attacks and defences."""

    train: int | None = None
    """Clean training images, in all; by default 500 for two classes, 1,000 for more, of the digits 180 and 800."""

    test: int | None = None
    """Test images, in all; by default 300, and 80 for two classes of the digits."""

    fraction: float = 0.05
    """Poisons over clean training images."""

    ridge: float = 1e-4
    """Ridge λ of the mean loss, in units of the kernel."""

    out: Path | None = None
    """FILE.nc (netCDF) or FILE.zarr with every number and picture."""

    plot: Path | None = None
    """FILE.png with heat maps of success, detection and accuracy."""

    page: Path | None = None
    """FILE.html with heat maps, tables, predictions held against measurements, and pictures of the attacks."""

    def run(self) -> int:
        """Run the matrix; returns the exit status."""
        import jax

        from kpoison.matrix import ATTACKS, DEFENCES, as_table, attack_defence_matrix, summarise, write_page
        from kpoison.matrix.judgement import judge
        from kpoison.plotting import attack_defence_figure

        jax.config.update("jax_enable_x64", True)
        check_output("--plot", self.plot, ".png")
        check_output("--page", self.page, ".html")
        wall, processor = time.perf_counter(), time.process_time()
        result = attack_defence_matrix(
            self.data,
            classes=self.classes[0] if len(self.classes) == 1 else self.classes,
            kernel=self.kernel,
            attacks=tuple(ATTACKS) if self.attacks == ("all",) else self.attacks,
            defences=tuple(DEFENCES) if self.defences == ("all",) else self.defences,
            seeds=self.seeds,
            train=self.train,
            test=self.test,
            fraction=self.fraction,
            ridge=self.ridge,
            out=self.out,
            data_dir=self.data_dir,
        )
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(as_table(summarise(result)))
        if "near-clone" in result.attack.values:
            print("near-clone, predicted and measured:")
            for defence in result.defence.values:
                for judgement in judge(result, "near-clone", str(defence)):
                    print(f"  {defence}: {judgement.statement}")
        print(f"{wall:.0f} s, {processor:.0f} s of processor time")
        if self.out is not None:
            print(f"result: {self.out}")
        if self.plot is not None:
            attack_defence_figure(result).savefig(self.plot)
            print(f"picture: {self.plot}")
        if self.page is not None:
            print(f"page: {write_page(result, self.page)}")
        return 0
