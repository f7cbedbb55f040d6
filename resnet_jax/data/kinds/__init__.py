"""Sources other than class folders of images; each registers itself when its kind is first requested.

* ``ucr``: ``ucr:PATH``: series of the UCR and UEA archives, ``.ts`` and ``.tsv``
* ``wav``, ``wave_file``: ``wav:PATH``: sound files by class; samples of one WAV file
* ``volumes``, ``volume_file``: ``volumes:PATH``: volumes by class, or MedMNIST's archive; one .npy, .npz or NIfTI file
* ``class_files``: which files belong to which class and split: folders, a pattern, lists
* ``masks``, ``mask_pairs``, ``mask_file``, ``mask_index``, ``mask_colours``: ``masks:PATH``: a class for every pixel
* ``voc``, ``voc_segmentation``, ``plain_xml``: ``voc:PATH``: boxes; ``voc_segmentation:PATH``: masks; XML without
  entities
* ``coco``: ``coco:PATH``: boxes
* ``box_records``: images with boxes, whatever their format
* ``files``: a file's bytes, or the error that names it
* ``detect``: which of these kinds is at a path
"""
