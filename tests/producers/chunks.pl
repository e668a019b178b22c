# A chunk of 100 rows [n, n + 0.5, n + 0.25] with pack.
use strict;
use warnings;

my ($dataset) = @ARGV;
open(my $file, '>:raw', "$dataset/perl.npy") or die "open: $!";
my $text = sprintf("%-117s\n", "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }");
print {$file} "\x93NUMPY\x01\x00", pack('v', length $text), $text or die "print: $!";
for my $n (0 .. 99) {
    print {$file} pack('d<3', $n, $n + 0.5, $n + 0.25) or die "print: $!";
}
close($file) or die "close: $!";
