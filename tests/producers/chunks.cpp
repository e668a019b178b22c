// Chunks of 100 rows [n, n + 0.5, n + 0.25] with std::ofstream.
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

int main(int, char **argv) {
    for (int k = 0; k < 2; k++) {
        std::ofstream file(std::string(argv[1]) + "/" + std::to_string(k) + ".npy", std::ios::binary);
        std::string text = "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }";
        text.resize(117, ' ');
        text += '\n';
        file.write("\x93NUMPY\x01\x00\x76\x00", 10);
        file << text;
        std::vector<double> rows;
        for (int i = 100 * k; i < 100 * k + 100; i++)
            for (double part : {0.0, 0.5, 0.25})
                rows.push_back(i + part);
        file.write(reinterpret_cast<const char *>(rows.data()), rows.size() * sizeof rows[0]);
        file.close();
        if (!file) {
            std::cerr << "refused\n";
            return 1;
        }
    }
}
