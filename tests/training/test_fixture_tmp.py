def test_x(trained_run):
    import subprocess

    print(subprocess.run(["ls", "-R", str(trained_run.root)], capture_output=True, text=True).stdout)


def test_y(trained_run):
    pass
