"""Where the user's own data sets come from: files, folders, other packages, batches.

batches      batches of any loader, written into a folder whose arrays are mapped
columns      which columns of a data set are inputs and targets
huggingface  data sets of Hugging Face's package datasets
images       a folder of images
prepared     what tensorflow-datasets has prepared
tables       files: .npz, .csv, .parquet, .txt, and folders of .npy
text         windows of a text, and the next character at each place
"""
