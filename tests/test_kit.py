"""The reader kit: blind to file-level features, saved answer by answer, and served to a real browser."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, FLAGS, Server
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from dermstudy import intervals
from dermstudy.data import dataset
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers import kit, statistics, workbook
from dermstudy_commands import cli
from dermstudy_commands.readers import served, store


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Blurred noise in the layout of the synthetic dataset: nothing like an original, at another size and format."""
    folder = tmp_path_factory.mktemp("synthetic")
    random = np.random.default_rng(0)
    rows = []
    for number, code in enumerate(CODES * 12):
        coarse = Image.fromarray(random.integers(120, 220, (8, 8, 3), np.uint8)).resize((300, 300))
        coarse.save(folder / f"synthetic_{number}.png")
        rows.append((f"synthetic_{number}", code, f"synthetic_{number}.png", code, f"original_{number}", number))
    pd.DataFrame(rows, columns=dataset.SYNTHETIC_COLUMNS).to_csv(folder / "index.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def made(cohort, synthetic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit") / "kit"
    return served.build(dataset.open_synthetic(synthetic), cohort, folder, per_entity=10, seed=4)


def test_a_kit_holds_each_entity_and_source_equally(made, cohort):
    folder, key_path = made
    notes, key = served.open_kit(folder), kit.open_key(key_path)
    assert len(notes["images"]) == 140 and key.groupby(["entity", "source"]).size().eq(10).all()
    originals = key[key["source"] == "original"]
    lesions = cohort.frame.set_index("image_id").loc[originals["original_name"], "lesion_id"]
    assert lesions.is_unique
    assert not list(folder.rglob("*key*")) and set(notes) == {"kit", "images", "side"}
    orders = {reader: served.order(notes, reader) for reader in ("Ada", "Grete")}
    assert orders["Ada"] == served.order(notes, "Ada") and orders["Ada"] != orders["Grete"]
    assert sorted(orders["Ada"]) == sorted(notes["images"])


def file_features(path: Path) -> list[float]:
    """What a reader could learn of a file without looking at the picture."""
    content, status = path.read_bytes(), path.stat()
    numbers = [status.st_size, status.st_mtime, status.st_mode, len(path.name)]
    numbers += list(path.stem.encode())
    return numbers + list(content[:54]) + [content[:54].count(0)]


def test_files_do_not_tell_source_or_entity(made):
    """A classifier on names, sizes, dates and headers: its AUC interval includes 0.5."""
    folder, key_path = made
    key = kit.open_key(key_path)
    features = np.array([file_features(folder / "images" / f"{image}.bmp") for image in key["image"]], float)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    true = (key["source"] == "AI").to_numpy()
    score = cross_val_predict(LogisticRegression(max_iter=1000), features, true, cv=5, method="decision_function")
    interval = intervals.auc_delong(true, score)
    print(f"AUC of file-level features {interval['auc']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})")
    assert interval["low"] <= 0.5 <= interval["high"]
    constant = [column for column in range(4) if np.ptp(features[:, column]) == 0]
    assert constant == [0, 1, 2, 3]  # size, date, mode, length of the name
    assert Image.open(folder / "images" / f"{key['image'].iloc[0]}.bmp").size == (256, 256)


def test_every_image_passes_one_encoding(made, cohort):
    folder, key_path = made
    row = kit.open_key(key_path).query("source == 'original'").iloc[0]
    pixels = cohort.images(256, [row["original_name"]])[0]
    stored = np.asarray(Image.open(folder / "images" / f"{row['image']}.bmp"))
    assert np.array_equal(stored, served.same_encoding(pixels)) and not np.array_equal(stored, pixels)


def test_answers_are_kept_corrected_and_logged(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "kit")
    image = served.open_kit(folder)["images"][0]
    store.save(folder, "Ada", image, "mel", "AI", 4)
    store.save(folder, "Ada", image, "nv", "unsure", 1)
    store.save(folder, "../../etc; DROP TABLE answers", image, "bcc", "original", 2)
    kept = store.answers(folder)
    assert len(kept) == 2 and set(kept["entity_answer"]) == {"nv", "bcc"}
    assert len(store.answers(folder, "Ada")) == 1 and not (tmp_path.parent / "etc").exists()
    for bad in (("xyz", "AI", 3), ("mel", "real", 3), ("mel", "AI", 6)):
        with pytest.raises(InputError, match="please choose"):
            store.save(folder, "Ada", image, *bad)
    for name in ("", "  ", "x" * 61, "a\x00b", None):
        with pytest.raises(InputError, match="please give a name"):
            store.reader_name(name)
    assert store.reader_name("  Ada \n Lovelace ") == "Ada Lovelace"


def test_two_readers_of_one_name_get_links_of_their_own(made, tmp_path):
    """Twenty people called Ada at once: twenty links, twenty sets of answers, none in another's place."""
    folder = shutil.copytree(made[0], tmp_path / "kit")
    image = served.open_kit(folder)["images"][0]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: store.add_reader(folder, " Ada "), range(20)))
        tokens, readers = zip(*added, strict=True)
        list(pool.map(lambda reader: store.save(folder, reader, image, "mel", "original", 3), readers))
    assert len(set(tokens)) == 20 and min(map(len, tokens)) >= 20
    assert set(readers) == {"Ada", *(f"Ada ({number})" for number in range(2, 21))}
    assert [store.reader_of(folder, token) for token in tokens] == list(readers)
    listed = store.readers(folder).set_index("reader")
    assert listed.loc[list(readers), "token"].tolist() == list(tokens) and listed["answered"].eq(1).all()
    assert (listed["name"] == "Ada").all() and len(store.answers(folder)) == 20
    for unknown in ("", "Ada", None, tokens[0][:-1]):
        with pytest.raises(InputError, match="no reader of this kit has this link"):
            store.reader_of(folder, unknown)


def test_named_readers_have_links_from_the_start(cohort, synthetic, tmp_path, capsys):
    sources = dataset.open_synthetic(synthetic), cohort
    with pytest.raises(InputError, match="please give a name"):
        served.build(*sources, tmp_path / "kit", 1, readers=["Ada", " "])
    assert not list(tmp_path.iterdir())
    folder, key_path = served.build(*sources, tmp_path / "kit", 1, seed=4, readers=["Ada", "Ada"])
    tokens = store.readers(folder).set_index("reader")["token"]
    assert set(tokens.index) == {"Ada", "Ada (2)"}
    assert not any(token in path.read_text() for token in tokens for path in (key_path, folder / "kit.json"))
    other = served.build(*sources, tmp_path / "other", 1, seed=4, readers=["Ada"])[0]
    assert store.readers(other)["token"][0] not in set(tokens)  # a repeatable kit does not repeat its links
    for image in served.open_kit(folder)["images"]:
        store.save(folder, "Ada (2)", image, "nv", "AI", 3)
    assert cli.main(["kit", "readers", str(folder), "--add", "Grete", "--address", "http://study.example/"]) == 0
    printed = capsys.readouterr().out
    tokens = store.readers(folder).set_index("reader")["token"]
    assert all(f"http://study.example/?reader={token}" in printed for token in tokens) and "14 of 14" in printed
    assert list(tokens.index) == ["Ada", "Ada (2)", "Grete"]
    assert cli.main(["kit", "readers", str(folder), "--add", ""]) == 2
    assert cli.main(["kit", "readers", str(tmp_path)]) == 2
    assert "is not a reader kit" in capsys.readouterr().err and len(store.readers(folder)) == 3
    assert cli.main(["kit", "export", str(folder), str(tmp_path / "answers.xlsx")]) == 0
    sheet = pd.read_excel(tmp_path / "answers.xlsx", sheet_name="readers")
    assert sheet["answered"].tolist() == [0, 14, 0]
    assert sheet["link"].tolist() == [f"?reader={token}" for token in tokens]
    assert set(workbook.read_workbook(tmp_path / "answers.xlsx")["reader"]) == {"Ada (2)"}


def answered(folder, key, reader, seed=0):
    for row in kit.simulated_answers(key, reader, 0.7, 0.8, seed).itertuples():
        store.save(folder, reader, row.image, row.entity_answer, row.source_answer, row.confidence)


def test_export_joins_the_key_and_refuses_what_does_not_belong(made, tmp_path, capsys):
    folder = shutil.copytree(made[0], tmp_path / "kit")
    key_path = shutil.copy(made[1], tmp_path / "kit_key.csv")
    key = kit.open_key(key_path)
    arguments = ["kit", "export", str(folder), str(tmp_path / "answers.xlsx")]

    def refused(message, *more):
        assert cli.main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "answers.xlsx").exists()

    refused("no reader has answered yet")
    answered(folder, key, "Ada")
    for image in key["image"][:3]:
        store.save(folder, "Grete", image, "nv", "original", 3)
    refused("reader 'Grete' skipped 137 of 140 images")
    assert cli.main([*arguments, "--partial"]) == 0
    table = workbook.read_workbook(tmp_path / "answers.xlsx")
    assert table["reader"].value_counts().to_dict() == {"Ada": 140, "Grete": 3}
    truth = key.set_index("image").loc[table["image"]]
    assert (truth["entity"].to_numpy() == table["entity"]).all()
    assert (truth["source"].to_numpy() == table["source"]).all()
    (tmp_path / "answers.xlsx").unlink()
    store.save(folder, "Ada", "0000000000", "nv", "original", 3)
    refused("belong to another kit")
    other = tmp_path / "other_key.csv"
    key.assign(kit="0" * 12).to_csv(other, index=False)
    refused("is the key of kit 000000000000", "--key", str(other))
    other.write_text("image,source\n")
    refused("has no column kit, entity, original_name", "--key", str(other))
    assert cli.main(["kit", "export", str(tmp_path), str(tmp_path / "answers.xlsx")]) == 2
    assert "is not a reader kit" in capsys.readouterr().err


def test_two_exports_merged_by_hand_are_told_apart(made, tmp_path):
    key = kit.open_key(made[1])
    one = kit.simulated_answers(key, "Ada", 0.7, 0.8, 0)
    workbook.write_workbook(pd.concat([one, one]), tmp_path / "twice.xlsx")
    with pytest.raises(InputError, match=r"row 142 \(cell B142\): reader Ada answered image .* twice"):
        workbook.read_workbook(tmp_path / "twice.xlsx")
    two = kit.simulated_answers(key.assign(image=key["image"] + "x", kit="b" * 12), "Ada", 0.7, 0.8, 0)
    workbook.write_workbook(pd.concat([one, two]), tmp_path / "mixed.xlsx")
    with pytest.raises(InputError, match="answers of 2 kits"):
        workbook.read_workbook(tmp_path / "mixed.xlsx")


def test_bad_kits_leave_nothing_behind(cohort, synthetic, made, tmp_path, capsys):
    sources = dataset.open_synthetic(synthetic), cohort
    with pytest.raises(InputError, match="12 synthetic images, the kit needs 13"):
        served.build(*sources, tmp_path / "kit", per_entity=13)
    with pytest.raises(InputError, match="give at least 1"):
        served.build(*sources, tmp_path / "kit", per_entity=0)
    with pytest.raises(InputError, match="is not replaced"):
        served.build(*sources, made[0], per_entity=10)
    assert not list(tmp_path.iterdir())
    arguments = ["kit", "build", str(tmp_path / "kit"), "--synthetic", str(synthetic), "--data", str(cohort.root)]
    assert cli.main(arguments) == 2
    assert "does not say which lesions are held out" in capsys.readouterr().err
    assert cli.main(["kit", "serve", str(tmp_path)]) == 2
    assert "is not a reader kit" in capsys.readouterr().err
    broken = shutil.copytree(made[0], tmp_path / "broken")
    next((broken / "images").iterdir()).unlink()
    with pytest.raises(InputError, match="lacks 1 of 140 images"):
        served.open_kit(broken)


def test_a_secret_kit_differs_each_time(cohort, synthetic, tmp_path):
    names = [
        set(served.open_kit(served.build(dataset.open_synthetic(synthetic), cohort, tmp_path / name, 1)[0])["images"])
        for name in "ab"
    ]
    assert not names[0] & names[1]


# In a browser


@pytest.fixture(scope="module")
def small(cohort, synthetic, tmp_path_factory):
    """A kit of one image an entity and source."""
    return served.build(dataset.open_synthetic(synthetic), cohort, tmp_path_factory.mktemp("small") / "kit", 1, seed=4)


@pytest.fixture
def server(small, tmp_path):
    folder = shutil.copytree(small[0], tmp_path / "kit")
    shutil.copy(small[1], tmp_path / "kit_key.csv")
    running = Server("kit", "serve", str(folder))
    running.folder = folder
    yield running
    running.kill()


def test_the_key_is_out_of_reach(server):
    parent = server.folder.parent
    for path in (
        "kit_key.csv", "../kit_key.csv", "%2e%2e/kit_key.csv", f"gradio_api/file={parent}/kit_key.csv",
        f"gradio_api/file={server.folder}/../kit_key.csv", f"gradio_api/file={server.folder}/answers.sqlite",
        f"file={parent}/kit_key.csv", "gradio_api/file=kit_key.csv",
    ):  # fmt: skip
        try:
            with urllib.request.urlopen(f"{server.address}/{path}", timeout=20) as answer:
                assert b"original_name" not in answer.read(), path
        except urllib.error.HTTPError as error:
            assert error.code in (400, 403, 404, 405), path


def answered_to(address, content=b"", kind="application/json", chunks=False, **headers) -> tuple[int, str]:
    """Status and text of a POST, or of a GET without content."""
    body = (iter([content[:1000], content[1000:]]) if chunks else content) or None
    headers |= {"Content-Type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'


def test_the_form_takes_no_file_and_no_large_request(server):
    for path in ("/gradio_api/upload", "/gradio_api/upload?upload_id=a", "/gradio_api/process_recording"):
        reply = answered_to(f"{server.address}{path}", FILE, "multipart/form-data; boundary=x")
        assert reply == (403, "this page takes no files\n")
    join = f"{server.address}/gradio_api/queue/join"
    for size in (2**16 + 1, 60_000_000):
        for chunks in (False, True):
            assert answered_to(join, b"0" * size, chunks=chunks) == (413, "a request holds at most 65536 bytes\n")
    assert answered_to(join, b"0" * 2**16)[0] == 422
    assert answered_to(server.address)[0] == 200


def test_the_form_starts_behind_a_proxy_and_below_a_prefix(small, tmp_path):
    """With the variables of a hospital's machine, and as a reverse proxy shows it that takes off /study."""
    folder = shutil.copytree(small[0], tmp_path / "kit")
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9") | {"all_proxy": "socks5://127.0.0.1:9"}
    server = Server("kit", "serve", str(folder), "--root-path", "study/", **proxies, no_proxy="clinic.example")
    try:
        forwarded = {"X-Forwarded-Host": "clinic.example", "X-Forwarded-Proto": "https"}
        status, config = answered_to(f"{server.address}/config", **forwarded)
        assert status == 200 and json.loads(config)["root"] == "https://clinic.example/study"
    finally:
        server.kill()


def answer(page, entity: int, source: int, confidence: int) -> None:
    """Answer the image that is shown, by place among the choices."""
    for group, place in (("entity", entity), ("source", source), ("confidence", confidence)):
        page.locator(f"#{group} label").nth(place).click()
    page.locator("#save").click()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")
def test_one_name_in_two_browsers_keeps_two_sets_of_answers(server):
    """Two people called Ada, page by page in turn; each link opens its own answers anywhere, and no other link any."""
    from playwright.sync_api import sync_playwright

    notes = served.open_kit(server.folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        pages = [browser.new_context().new_page() for _ in range(2)]
        for page in pages:
            page.goto(server.address)
            page.locator("#name textarea, #name input").fill("Ada")
        for page in pages:
            page.locator("#start").click()
        for page in pages:
            page.get_by_text("Image 1 of 14, 0 answered").wait_for()
            page.wait_for_url("**/?reader=*")
        links = [page.url for page in pages]
        for place in range(3):
            for number, page in enumerate(pages):
                answer(page, number, number, number)
                page.get_by_text(f"{place + 1} answered").wait_for()
        listed = store.readers(server.folder)
        tokens = [link.partition("?reader=")[2] for link in links]
        assert set(listed["token"]) == set(tokens) and set(listed["reader"]) == {"Ada", "Ada (2)"}
        for number, (link, token) in enumerate(zip(links, tokens, strict=True)):
            page = browser.new_context().new_page()
            page.goto(link)
            page.get_by_text("Image 4 of 14, 3 answered").wait_for()
            page.locator("#back").click()
            page.get_by_text("Image 3 of 14").wait_for()
            page.locator(f"#entity input[value={CODES[number]}]:checked").wait_for(state="attached")
            reader = store.reader_of(server.folder, token)
            own = store.answers(server.folder, reader)
            assert set(own["image"]) == set(served.order(notes, reader)[:3]) and own["confidence"].eq(number + 1).all()
            page.locator("#own a").wait_for()
            page.locator("#leave").click()
            page.locator("#start").wait_for()
            page.wait_for_url(lambda url: "reader=" not in url)
        stranger = browser.new_context().new_page()
        stranger.goto(f"{server.address}/?reader=Ada")
        stranger.get_by_text("no reader of this kit has this link").wait_for()
        pages[0].goto(links[1])  # another reader's link, in a browser that knows a reader of its own
        pages[0].locator("#own").get_by_text(store.reader_of(server.folder, tokens[1]), exact=True).wait_for()
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")
def test_two_readers_in_a_browser_through_a_kill(server, tmp_path):
    """Two readers in parallel, the server killed with signal 9 half-way: all answers arrive, none twice."""
    from playwright.sync_api import sync_playwright

    notes = served.open_kit(server.folder)
    key = kit.open_key(server.folder.parent / "kit_key.csv")
    truth = key.set_index("image")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        sizes = {"Ada": (1280, 900), "Grete": (820, 1180)}
        pages = {
            name: browser.new_context(viewport={"width": w, "height": h}).new_page() for name, (w, h) in sizes.items()
        }
        for reader, page in pages.items():
            page.goto(server.address)
            page.locator("#name textarea, #name input").fill(reader)
            page.locator("#start").click()
            page.get_by_text("Image 1 of 14, 0 answered").wait_for()
        source = pages["Ada"].content()
        assert not any(word in source for word in ("synthetic_", "PHANTOM", "original_name"))
        for place in range(14):
            if place == 6:
                server.kill()
                assert server.start()
                for page in pages.values():
                    page.reload()
                    page.get_by_text("Image 7 of 14, 6 answered").wait_for()
            for reader, page in pages.items():
                image = served.order(notes, reader)[place]
                wanted = truth.loc[image, "entity"] if place % 3 else "nv"
                if reader == "Ada":  # by keyboard
                    page.locator("body").click(position={"x": 3, "y": 3})
                    page.keyboard.press(str(CODES.index(wanted) + 1))
                    page.keyboard.press("aou"[place % 3])
                    page.keyboard.press(f"Shift+Digit{place % 5 + 1}")
                    checked = [page.locator(f"#{group} input:checked") for group in ("entity", "source", "confidence")]
                    for one in checked:
                        one.wait_for(state="attached")
                    page.keyboard.press("Enter")
                else:  # by pointer
                    if place == 5:
                        page.locator("#save").click()
                        page.get_by_text("Please answer all three questions first.").wait_for()
                        page.locator("#back").click()
                        page.get_by_text("Image 5 of 14").wait_for()
                        page.locator("#save").click()
                        page.get_by_text("Image 6 of 14").wait_for()
                    page.locator("#entity label").nth(CODES.index(wanted)).click()
                    page.locator("#source label").nth(place % 3).click()
                    page.locator("#confidence label").nth(place % 5).click()
                    page.locator("#save").click()
                page.get_by_text(f"{place + 1} answered").wait_for()
        for page in pages.values():
            page.get_by_text("All images are answered").wait_for()
        browser.close()
    path = tmp_path / "answers.xlsx"
    assert cli.main(["kit", "export", str(server.folder), str(path)]) == 0
    table = workbook.read_workbook(path)
    assert len(table) == 28 and table["reader"].value_counts().eq(14).all()
    for reader in sizes:
        images = served.order(notes, reader)
        own = table[table["reader"] == reader].set_index("image").loc[images]
        assert own["confidence"].tolist() == [place % 5 + 1 for place in range(14)]
        expected = [truth.loc[image, "entity"] if place % 3 else "nv" for place, image in enumerate(images)]
        assert own["entity_answer"].tolist() == expected
        assert own["source_answer"].tolist() == [("AI", "original", "unsure")[place % 3] for place in range(14)]
    assert statistics.source_answers(table).to_numpy().sum() == 28
    assert statistics.source_auc(table, 50)["auc"].between(0, 1).all()
    assert statistics.readers_and_cases(table, table["entity"] == table["entity_answer"], 50)["readers"] == 2
