% A chunk of 100 rows [n, n + 0.5, n + 0.25] in Octave's column order.
dataset = argv(){1};
rows = (0:99)' + [0, 0.5, 0.25];
text = sprintf("%-117s\n", "{'descr': '<f8', 'fortran_order': True, 'shape': (100, 3), }");
file = fopen([dataset "/octave.npy"], "w");
fwrite(file, [147, "NUMPY", 1, 0, length(text), 0], "uint8");
fwrite(file, text, "char");
fwrite(file, rows, "double", 0, "ieee-le");
if fclose(file) != 0
  error("refused");
end
