"""Tables of one's own: columns however they are spelt, what is left unread, several labels, and odd files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from xcoop.data.ownfolder import Own, read_own
from xcoop.data.owntable import COLUMNS, _matching, read_rows, split_of
from xcoop.utils.console import DatasetError

# Headers of public sets, and of people's own: which column is image, label, split, patient.
HEADERS = [
    ("lesion_id,image_id,dx,dx_type,age,sex,localization", "image_id", "dx", "", "lesion_id"),  # HAM10000
    ("isic_id,attribution,age_approx,benign_malignant,diagnosis,diagnosis_confirm_type,lesion_id,patient_id",
     "isic_id", "diagnosis", "", "patient_id"),  # ISIC archive
    ("patient_id,lesion_id,smoke,age,region,diagnostic,itch,img_id,biopsed", "img_id", "diagnostic", "", "patient_id"),
    ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
     "Image Index", "Finding Labels", "", "Patient ID"),  # NIH ChestX-ray14
    ("ImageID,ImageDir,StudyID,PatientID,PatientSex_DICOM,Projection,Labels", "ImageID", "Labels", "", "PatientID"),
    ("dicom_id,study_id,subject_id,split", "dicom_id", "", "split", "subject_id"),  # MIMIC-CXR
    ("patient_id,left or right breast,abnormality type,pathology,image file path,cropped image file path,"
     "ROI mask file path", "image file path", "pathology", "", "patient_id"),  # CBIS-DDSM
    (",X_ray_image_name,Label,Dataset_type,Label_2_Virus_category", "X_ray_image_name", "Label", "Dataset_type", ""),
    (",DDI_ID,DDI_file,skin_tone,malignant,disease", "DDI_file", "disease", "", ""),
    ("md5hash,fitzpatrick_scale,label,nine_partition_label,qc,url", "md5hash", "label", "", ""),  # Fitzpatrick17k
    ("patientid,offset,sex,finding,survival,view,folder,filename,doi", "filename", "finding", "", "patientid"),
    ("image,level", "image", "level", "", ""),  # EyePACS
    ("id_code,diagnosis", "id_code", "diagnosis", "", ""),  # APTOS
    ("ID,Case,Histology,Pathology,BIRADS,Side", "ID", "Pathology", "", "Case"),  # BUS-BRA
    ("Image name,Ophthalmologic department,Retinopathy grade", "Image name", "Retinopathy grade", "", ""),  # Messidor
    ("imagePath,className,dataSplit,subjectId", "imagePath", "className", "dataSplit", "subjectId"),
    ("IMG_PATH,CLASS,PARTITION,PATIENT_NO", "IMG_PATH", "CLASS", "PARTITION", "PATIENT_NO"),
    ("Filename,Ground Truth,Phase,Case ID", "Filename", "Ground Truth", "Phase", "Case ID"),
    ("file_name,category,set,PID", "file_name", "category", "set", "PID"),
    ("relative-path,Disease Name,usage,MRN", "relative-path", "Disease Name", "usage", "MRN"),
    ("photo_id,condition,individual_id,train_test_split", "photo_id", "condition", "train_test_split", "individual_id"),
    ("slice,tumor_type,subjectID,fold", "slice", "tumor_type", "fold", "subjectID"),
    ("img_name,labels,participant ID,is_train", "img_name", "labels", "", "participant ID"),
    ("study_instance_uid,sop_instance_uid,path,label", "path", "label", "", "study_instance_uid"),
    ("image_path,label,Patient Age,patient_sex,dataset_size,label_source", "image_path", "label", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("header", "path", "label", "split", "patient"), HEADERS)
def test_columns_of_public_sets(header: str, path: str, label: str, split: str, patient: str) -> None:
    found = {role: "".join(_matching(role, header.split(","))) for role in COLUMNS}
    assert found == {"path": path, "label": label, "split": split, "patient": patient}


@pytest.mark.parametrize(
    ("word", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("train set", "train"), ("test-set", "test"), ("Validation", "val"),
     ("valid", "val"), ("hold-out", "test"), ("testis", ""), ("set", ""), ("0", ""), ("", "")],
)  # fmt: skip
def test_words_of_splits(word: str, split: str) -> None:
    assert split_of(word) == split


def table(folder: Path, text: str | bytes, count: int = 12, name: str = "{}.png") -> Path:
    """A table beside `count` images, each of a colour of its own."""
    for i in range(count):
        path = folder / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 40, 90)).save(path, format="PNG")
    (folder / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "t.csv"


def lines(header: str, row: str, count: int = 12) -> str:
    """A table whose rows are formats of `i`."""
    fill = {"{a}": lambda i: "ab"[i % 2], "{2}": lambda i: i // 2, "{4}": lambda i: i // 4, "{3}": lambda i: i % 3}
    rows = []
    for i in range(count):
        text = row.replace("{i}", str(i))
        for mark, value in fill.items():
            text = text.replace(mark, str(value(i)))
        rows.append(text)
    return "\n".join([header, *rows]) + "\n"


def said(own: Own) -> str:
    return "\n".join(remark.text for remark in own.remarks)


def test_the_columns_that_are_read_and_those_that_are_not_are_named(tmp_path: Path) -> None:
    own = read_own(table(tmp_path, lines("image,dx,PatientID,age,notes", "{i}.png,{a},p{2},50,x")))
    assert {item.patient for item in own.splits.train} == {f"p{n}" for n in range(6)}
    text = "read image from 'image', label from 'dx', patient from 'PatientID'; columns left unread: 'age', 'notes'"
    assert text in said(own)


@pytest.mark.parametrize(
    ("columns", "row", "patients"),
    [
        ("lesion_id,Patient ID", "l{2},p{4}", {"p0", "p1", "p2"}),  # patients, whatever else there is
        ("case_id,lesion_id", "c{2},l{4}", {"l0", "l1", "l2"}),  # the larger group of two other kinds
        ("lesion_id,case_id", "l{4},c{2}", {"l0", "l1", "l2"}),
        ("subject,PatientID", "s{2},p{4}", {"p0", "p1", "p2"}),  # the larger of two patients
        ("patient_id,lesion_id", ",l{4}", {"l0", "l1", "l2"}),  # an empty column tells nothing
    ],
)
def test_of_several_groups_the_largest_counts(tmp_path: Path, columns: str, row: str, patients: set[str]) -> None:
    own = read_own(table(tmp_path, lines(f"image,label,{columns}", "{i}.png,{a}," + row)))
    assert {item.patient for item in own.splits.train} == patients


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            lines("image,label,lesion_id,study_id", "{i}.png,{a},{4},{3}"),
            "'lesion_id' and 'study_id' both tell the pat",
        ),
        (lines("image,img,label", "{i}.png,x,{a}"), "'image' and 'img' both tell the path"),
        (lines("image,label,class", "{i}.png,{a},{3}"), "'label' and 'class' both tell the label"),
        (lines("image,label,label", "{i}.png,{a},{a}"), "several columns are called 'label'"),
        (lines("image,label,split", "{i}.png,{a},{3}"), r"line 2: Unknown split '0'.*\(column 'split'\)"),
        (lines("image,label", "{i}.png,"), "the column 'label' is empty in all of the 12 rows"),
        ("image,label\n", "the column 'label' is empty in all of the 0 rows"),
        (lines("image,label", "{i}.png,{a},x"), "line 2: 3 fields, and the header has 2"),
        (
            lines("image,label", "{i}.png,{a}").replace("7.png,b", '7.png,"b'),
            "no CSV text .in what begins in line 9: unexp",
        ),
        (lines("image,label", "{i}.png,{a}").replace("a", "ä").encode("latin-1"), "no CSV text.*save it as UTF-8"),
        (lines("image,label", "{i}.png,{a}\x1b[31m"), r"line 2: the label 'a\\x1b\[31m' holds control characters"),
        (lines("image,label,patient", "{i}.png,{a},{2}\x07"), r"line 2: the patient '0\\x07' holds control characters"),
        (lines("image,label", "{i}.png,{a}").replace("3.png", '"x\ny.png"'), r"line 5: the path 'x\\ny\.png' holds"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_own(table(tmp_path, text))


def test_a_fold_that_names_no_split_is_left_with_a_word(tmp_path: Path) -> None:
    own = read_own(table(tmp_path, lines("image,label,fold", "{i}.png,{a},{3}")))
    assert not own.splits.divided
    (remark,) = [remark for remark in own.remarks if remark.matters]
    assert "the column 'fold' tells no split: its values are '0', '1', '2'" in remark.text


BODY = lines("image,label", "{i}.png,{a}")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + BODY,
        BODY.encode("utf-16"),
        "sep=;\r\n" + BODY.replace(",", ";"),
        BODY.replace(",", "\t"),
        BODY.replace(",", "|"),
        "\n , \n" + BODY.replace("\n", "\r\n\r\n") + ",,\n",
        BODY.replace(",", " , ").replace("image", " Image"),
        BODY.replace(",", ', "').replace("\n", '"\n'),
    ],
    ids=["mark", "utf-16", "sep", "tabs", "bars", "blank lines", "blanks", "quotes"],
)
def test_odd_files_are_read_alike(tmp_path: Path, text: str | bytes) -> None:
    own = read_own(table(tmp_path, text))
    assert [(item.path, item.classname) for item in own.splits.train] == sorted(
        (f"{i}.png", "ab"[i % 2]) for i in range(12)
    )


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    rows, _ = read_rows(table(tmp_path, "\n\nimage,label\n\n0.png,a\n\n\n1.png,b\n"))
    assert [row.line for row in rows] == [5, 8]


ONE_HOT = "\n".join(["image,MEL,NV,UNK", *(f"{i}.png,{i % 2}.0,{1 - i % 2}.0,0.0" for i in range(12))])


def test_columns_of_zero_and_one(tmp_path: Path) -> None:
    own = read_own(table(tmp_path, ONE_HOT))
    assert own.classes == ("MEL", "NV")
    beside = read_own(table(tmp_path, (ONE_HOT + "\n").replace("UNK", "label").replace(",0.0\n", ",\n")))
    assert beside.classes == ("MEL", "NV")  # an empty column tells nothing
    assert {item.path: item.classname for item in own.splits.train}["3.png"] == "MEL"
    assert "label from the columns of 0 and 1 (MEL, NV); columns left unread: 'UNK'" in said(own)


def test_columns_of_zero_and_one_of_which_one_is_called_like_a_label(tmp_path: Path) -> None:
    three = "\n".join(["image,benign,malignant,normal", *(f"{i}.png,{['1,0,0', '0,1,0', '0,0,1'][i % 3]}"
                      for i in range(12))])  # fmt: skip
    assert read_own(table(tmp_path, three)).classes == ("benign", "malignant", "normal")
    alone = "\n".join(["image,malignant,smoker", *(f"{i}.png,{i % 2},{i // 6}" for i in range(12))])
    assert read_own(table(tmp_path, alone)).classes == ("0", "1")  # of some images both, or neither, are 1


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [("3.png,1.0,0.0", "3.png,1.0,1.0", "'MEL' and 'NV' are 1"), ("3.png,1.0", "3.png,0.0", "none is 1"),
     ("3.png,1.0", "3.png,-1", "'MEL' is -1")],
)  # fmt: skip
def test_several_labels_or_none_in_columns(tmp_path: Path, old: str, new: str, what: str) -> None:
    with pytest.raises(DatasetError, match=f"line 5: .*{what}.*exactly one class"):
        read_own(table(tmp_path, ONE_HOT.replace(old, new)))


def test_which_columns_are_classes_can_be_told(tmp_path: Path) -> None:
    text = ONE_HOT.replace("UNK", "smoker").replace(",0.0\n", ",1\n")
    with pytest.raises(DatasetError, match=r"'NV' and 'smoker' are 1.*DATASET\.CLASSES"):
        read_own(table(tmp_path, text))
    assert read_own(tmp_path / "t.csv", ["nv", "mel"]).classes == ("MEL", "NV")


def labelled(folder: Path, *labels: str) -> Path:
    quoted = ['"' + label.replace('"', '""') + '"' for label in labels]
    return table(folder, "image;label\n" + "".join(f"{i}.png;{quoted[i % len(labels)]}\n" for i in range(12)))


@pytest.mark.parametrize(
    "labels",
    [
        ("nevus", "melanoma|ulcer"),
        ("nevus", "melanoma; ulcer"),
        ("nevus", "melanoma", "melanoma, ulcer"),
        ("Nevus", "melanoma", "melanoma / nevus"),
        ("a,b", "b,c", "a,c"),
        ("['a', 'b']", "['a']"),
        ('["a", "b"]', '["c"]'),
    ],
)
def test_labels_that_are_lists_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=r"images with several labels: .*DATASET\.CLASSES"):
        read_own(labelled(tmp_path, *labels))
    assert set(read_own(tmp_path / "t.csv", labels).classes) == set(labels)  # unless they are told to be names


@pytest.mark.parametrize(
    "labels",
    [("nevus, blue", "melanoma, thin"), ("AK/BCC", "nevus"), ("HER2+", "HER2-"), ("left, upper", "right, lower")],
)
def test_names_with_such_marks_are_names(tmp_path: Path, labels: tuple[str, ...]) -> None:
    assert read_own(labelled(tmp_path, *labels)).classes == tuple(sorted(labels))


@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [("IMG{i}", "img{}.jpg"), ("{i}", "part/{}.png"), ("x/{i}.PNG", "X/{}.png"), ("./x/{i}.png", "x/{}.png")],
)
def test_images_are_found_by_their_names(tmp_path: Path, listed: str, on_disk: str) -> None:
    own = read_own(table(tmp_path, lines("image_id,dx", f"{listed},{{a}}"), name=on_disk))
    assert {item.path for item in own.splits.train} == {on_disk.format(i) for i in range(12)}


def test_a_name_that_two_images_have_is_refused(tmp_path: Path) -> None:
    table(tmp_path, lines("image_id,dx", "{i},{a}"), name="x/{}.png")
    with pytest.raises(DatasetError, match=r"t\.csv: '0' may be any of \['x/0\.png', 'y/0\.png'\]"):
        read_own(table(tmp_path, lines("image_id,dx", "{i},{a}"), 1, name="y/{}.png"))


ISIC_2020 = "image_name,patient_id,diagnosis,benign_malignant,target\n" + "".join(
    f"{i}.png,P{i // 2},{finding}\n"
    for i, finding in enumerate(["unknown,benign,0", "nevus,benign,0", "melanoma,malignant,1"] * 4)
)


@pytest.mark.parametrize(
    "classes", [("malignant", "benign"), ("Benign", "Malignant"), ("0", "1"), ("melanoma", "nevus", "unknown")]
)
def test_the_stated_classes_choose_the_column_of_the_label(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=r"DATASET\.CLASSES .*'benign_malignant' holds 'benign', 'malignant'"):
        read_own(table(tmp_path, ISIC_2020))
    assert {name.lower() for name in read_own(tmp_path / "t.csv", classes).classes} == {n.lower() for n in classes}


def test_stated_classes_find_a_column_of_any_name(tmp_path: Path) -> None:
    own = read_own(table(tmp_path, lines("image,Befund,sex", "{i}.png,{a},{3}")), ["b", "a"])
    assert "label from 'Befund'" in said(own)


@pytest.mark.parametrize("word", ["NaN", "nan", "NA", "#N/A", "<NA>", "null"])
def test_words_for_missing_are_no_values(tmp_path: Path, word: str) -> None:
    body = lines("image,label,patient", "{i}.png,{a},{2}").replace("3.png,b", f"3.png,{word}")
    with pytest.raises(DatasetError, match=r"line 5: 3\.png has no label"):
        read_own(table(tmp_path, body))
    assert read_own(tmp_path / "t.csv", ["a", "b", word]).classes == tuple(sorted({"a", "b", word}))
    table(tmp_path, lines("image,label,patient", "{i}.png,{a},{2}").replace("3.png,b,1", f"3.png,b,{word}"))
    with pytest.raises(DatasetError, match="1 of 12 rows have no patient, the first in line 5"):
        read_own(tmp_path / "t.csv")


@pytest.mark.parametrize(("columns", "row"), [("is_train", "1"), ("is_valid", "False"), ("train,test", "1,0")])
def test_splits_in_columns_of_yes_and_no_are_refused(tmp_path: Path, columns: str, row: str) -> None:
    with pytest.raises(DatasetError, match=f"'{columns.split(',')[0]}'.* tell the split by yes and no"):
        read_own(table(tmp_path, lines(f"image,label,{columns}", "{i}.png,{a}," + row)))
    read_own(table(tmp_path, lines(f"image,label,{columns},fold", "{i}.png,{a}," + row + ",train")
                   .replace("11.png,b," + row + ",train", "11.png,b," + row + ",test")
                   .replace("10.png,a," + row + ",train", "10.png,a," + row + ",test")))  # fmt: skip


def test_what_the_classes_are(tmp_path: Path) -> None:
    """Grades stand in the order of their values, a list of one label is that label, a number is less than a name."""
    assert read_own(labelled(tmp_path, "10.0", "2.0", "0.0")).classes == ("0.0", "2.0", "10.0")
    assert read_own(labelled(tmp_path, "['a']", '["b c"]', "[d]", "a")).classes == ("a", "b c", "d")
    both = table(tmp_path, lines("image,class_id,class_name", "{i}.png,{3},g{3}"))
    assert read_own(both).classes == ("g0", "g1", "g2")


@pytest.mark.parametrize(
    ("name", "patients"),
    [
        ("train/patient{p:05}/study1/{i}.png", {f"patient{n:05}" for n in range(6)}),  # CheXpert, MURA
        ("Subject-{p}/{i}.png", {f"subject-{n}" for n in range(6)}),
        ("sub-{p:02}/anat/{i}.png", {f"sub-{n:02}" for n in range(6)}),  # BIDS
        ("{p}_{side}.png", {f"{n}" for n in range(6)}),  # EyePACS
        ("eye{p}-{s}.png", {f"eye{n}" for n in range(6)}),
        ("{i}_left.png", {""}),  # no pair
        ("person{p}_virus_{i}.png", {""}),  # such numbers begin anew in each class of the set that is named so
        ("patients/{i}.png", {""}),
    ],
)
def test_patients_that_paths_tell(tmp_path: Path, name: str, patients: set[str]) -> None:
    paths = [name.format(i=i, p=i // 2, side=("left", "right")[i % 2], s="LR"[i % 2]) for i in range(12)]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{path},{i // 6}\n" for i, path in enumerate(paths)))
    own = read_own(tmp_path)
    assert {item.patient for item in own.splits.train} == patients
    assert ("told by their paths" in said(own)) == (patients != {""})
