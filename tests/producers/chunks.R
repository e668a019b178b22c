# A chunk of 100 rows [n, n + 0.5, n + 0.25] in R's column order.
options(warn = 2) # close only warns of what it was answered: now that ends the script
dataset <- commandArgs(trailingOnly = TRUE)[1]
rows <- outer(0:99, c(0, 0.5, 0.25), "+")
text <- sprintf("%-117s\n", "{'descr': '<f8', 'fortran_order': True, 'shape': (100, 3), }")
file <- file(file.path(dataset, "r.npy"), "wb")
writeBin(as.raw(c(0x93, utf8ToInt("NUMPY"), 1, 0, nchar(text), 0)), file)
writeChar(text, file, eos = NULL)
writeBin(as.vector(rows), file, endian = "little")
close(file)
