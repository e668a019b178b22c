% A chunk of 100 rows [n, n + 0.5, n + 0.25] in Octave's column order.
dataset = argv(){1};
path = [dataset "/octave.npy"];
rows = (0:99)' + [0, 0.5, 0.25];
text = sprintf("%-117s\n", "{'descr': '<f8', 'fortran_order': True, 'shape': (100, 3), }");
file = fopen(path, "w");
fwrite(file, uint8([147, double("NUMPY"), 1, 0, length(text), 0]), "uint8");
fwrite(file, text, "char");
fwrite(file, rows, "double", 0, "ieee-le");
fclose(file);
% fclose tells no error, but a refused chunk is gone.
if isempty(stat(path))
  error("refused: see the log of the dataset");
end
